//! As much of JSON Schema 2020-12 as the schemas in `packaging/schema` use: a crate for all of it would bring some fifty
//! others. A keyword that this does not know is an error, so that none is passed over.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Holds a value against `packaging/schema/NAME.json`; the error says where it is otherwise.
pub(crate) fn check(name: &str, value: &Value) -> Result<(), String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/schema").join(name);
    let text = fs::read_to_string(file.with_extension("json")).map_err(|error| format!("{name}: {error}"))?;
    let schema: Value = serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
    of(&schema, &schema, value, name)
}

fn of(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let Some(keywords) = schema.as_object() else { return Err(format!("{at}: the schema is no object")) };
    for (keyword, wanted) in keywords {
        let good = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let pointer = wanted.as_str().and_then(|path| path.strip_prefix('#')).unwrap_or("?");
                let target = root.pointer(pointer).ok_or_else(|| format!("{at}: no {wanted}"))?;
                return of(root, target, value, at);
            }
            "type" => match wanted {
                Value::Array(any) => any.iter().any(|wanted| is(wanted, value)),
                wanted => is(wanted, value),
            },
            "const" => wanted == value,
            "enum" => wanted.as_array().is_some_and(|any| any.contains(value)),
            "minimum" => value.as_i64().zip(wanted.as_i64()).is_none_or(|(value, least)| value >= least),
            "anyOf" => {
                wanted.as_array().is_some_and(|any| any.iter().any(|s| of(root, s, value, at).is_ok()))
            }
            "required" => {
                let has = |key: &Value| value.get(key.as_str().unwrap_or_default()).is_some();
                !value.is_object() || wanted.as_array().is_some_and(|keys| keys.iter().all(has))
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    of(root, wanted, item, &format!("{at}[{number}]"))?;
                }
                true
            }
            "properties" | "additionalProperties" => true,
            other => return Err(format!("{at}: {other} is not understood")),
        };
        if !good {
            return Err(format!("{at}: {keyword} {wanted} does not hold: {value}"));
        }
    }
    if schema.get("properties").or(schema.get("additionalProperties")).is_none() {
        return Ok(());
    }
    for (key, member) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{key}");
        match (
            schema.pointer("/properties").and_then(|known| known.get(key)),
            schema.get("additionalProperties"),
        ) {
            (Some(known), _) => of(root, known, member, &at)?,
            (None, Some(Value::Object(_))) => of(root, &schema["additionalProperties"], member, &at)?,
            // A field that no schema tells of is documented nowhere.
            (None, _) => return Err(format!("{at}: not in the schema")),
        }
    }
    Ok(())
}

fn is(wanted: &Value, value: &Value) -> bool {
    match wanted.as_str() {
        Some("null") => value.is_null(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}
