//! A definition of mdevctl's: text → [`Definition`]. Files that others wrote, read and never written; each stands or
//! falls alone.
//!
//! `{"mdev_type": "…", "start": "auto"|"manual", "attrs": [{"name": "value"}, …]}`. Names of attributes are confined as
//! those in a domain's metadata are: mdevctl itself would write to `../../x`. Keys that are not known are mdevctl's own
//! to judge.

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::domain::{Attribute, Wanted};
use crate::ids::{AttributeName, MdevUuid, Parent, TypeId, TypeWish};
use crate::refusal::BadDefinition;

const TYPE: &str = "mdev_type";
const START: &str = "start";
const ATTRIBUTES: &str = "attrs";

/// What a definition says of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// A type's id; the vendor's name for it is none to mdevctl.
    pub kind: TypeWish,
    /// In the order in which they are written.
    pub attributes: Vec<Attribute>,
    /// To be brought up with its parent.
    pub auto: bool,
}

impl Definition {
    /// The same as a domain's metadata would have it.
    pub fn wanted(self, uuid: MdevUuid, parent: Parent) -> Wanted {
        Wanted {
            uuid: Some(uuid),
            wish: self.kind,
            parents: vec![parent],
            placement: None,
            numa: None,
            keep: false,
            relocate: false,
            attached: false,
            attributes: self.attributes,
            arguments: Vec::new(),
        }
    }
}

/// Judges the text of a definition.
pub fn parse(text: &str) -> Result<Definition, BadDefinition> {
    let json: Json = serde_json::from_str(text).map_err(|error| BadDefinition::NotJson(error.to_string()))?;
    let Json::Object(members) = json else { return Err(BadDefinition::NotAnObject(json.shown())) };
    let member = |key: &'static str| {
        let mut found = members.iter().filter(|(name, _)| name == key).map(|(_, value)| value);
        let first = found.next();
        match found.next() {
            // JSON's readers differ in which of the two counts.
            Some(_) => Err(BadDefinition::Twice { key: key.to_owned() }),
            None => Ok(first),
        }
    };
    let bad = |key: &str, value: &Json, why: &str| BadDefinition::Value {
        key: key.to_owned(),
        value: value.shown(),
        why: why.to_owned(),
    };
    let kind = match member(TYPE)? {
        None => return Err(BadDefinition::Lacks(TYPE)),
        Some(value @ Json::Text(text)) => TypeId::parse(text)
            .map(|kind| kind.as_wish())
            .map_err(|why| bad(TYPE, value, &why.to_string()))?,
        Some(other) => return Err(bad(TYPE, other, "must be a string")),
    };
    let attributes = match member(ATTRIBUTES)? {
        None => Vec::new(),
        Some(Json::Other(text)) if text == "null" => Vec::new(),
        Some(Json::List(items)) => {
            let parsed = items.iter().enumerate().map(|(at, item)| attribute(at, item));
            parsed.collect::<Result<_, _>>()?
        }
        Some(other) => return Err(bad(ATTRIBUTES, other, "must be a list")),
    };
    let auto = match member(START)? {
        // To mdevctl it is no definition then.
        None => return Err(BadDefinition::Lacks(START)),
        Some(Json::Text(text)) if text == "auto" || text == "manual" => text == "auto",
        Some(other) => return Err(bad(START, other, "must be \"auto\" or \"manual\"")),
    };
    Ok(Definition { kind, attributes, auto })
}

/// One element of `attrs`: an object with a single key, so that there is an order.
fn attribute(at: usize, item: &Json) -> Result<Attribute, BadDefinition> {
    let key = format!("{ATTRIBUTES}[{at}]");
    let bad = |key: String, value: &Json, why: &str| BadDefinition::Value {
        key,
        value: value.shown(),
        why: why.to_owned(),
    };
    let Json::Object(members) = item else { return Err(bad(key, item, "must be an object")) };
    let (name, value) = match members.as_slice() {
        [(name, value)] => (name, value),
        [(first, _), (second, _)] if first == second => {
            return Err(BadDefinition::Twice { key: format!("{key}.{first}") });
        }
        _ => return Err(bad(key, item, "must name one attribute, so that the order is known")),
    };
    let parsed = AttributeName::parse(name).map_err(|why| BadDefinition::Name {
        key: key.clone(),
        name: name.clone(),
        why: why.to_string(),
    })?;
    let key = format!("{key}.{name}");
    let Json::Text(text) = value else { return Err(bad(key, value, "must be a string")) };
    let text = Attribute::parse_value(text).map_err(|why| bad(key, value, &why))?;
    Ok(Attribute { name: parsed, value: text })
}

/// A JSON value that keeps what `serde_json::Value` loses: that a key stands there twice.
enum Json {
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
    /// A number, a truth value or null, as JSON writes it.
    Other(String),
}

impl Json {
    /// For the words of a refusal.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("\"{text}\""),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Object(members) => format!("an object of {}", members.len()),
            Self::Other(text) => text.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Other(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Other(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Other(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Other(value.to_string()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Other("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{
  "mdev_type": "mtty-2",
  "start": "manual",
  "attrs": [ { "settings/second": "2" }, { "settings/first": "1" }, { "settings/second": "a\nb" } ]
}"#;

    #[test]
    fn the_order_of_attributes_is_the_files() {
        let definition = parse(GOOD).unwrap();
        assert_eq!(definition.kind.to_string(), "mtty-2");
        let attributes: Vec<_> =
            definition.attributes.iter().map(|a| (a.name.to_string(), a.value.as_str())).collect();
        let expected = [("settings/second", "2"), ("settings/first", "1"), ("settings/second", "a\nb")];
        assert_eq!(attributes, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn what_does_not_matter_here_may_be_missing_or_new() {
        for text in [
            r#"{"mdev_type":"mtty-2","start":"auto"}"#,
            r#"{"mdev_type":"mtty-2","start":"auto","attrs":[]}"#,
            r#"{"mdev_type":"mtty-2","start":"auto","attrs":null}"#,
            r#"{"mdev_type":"mtty-2","start":"manual","comment":{"a":[1,true,null,-2,0.5]},"comment":1}"#,
        ] {
            assert_eq!(parse(text).unwrap().attributes, [], "{text}");
        }
        let longest =
            format!(r#"{{"mdev_type":"t","start":"auto","attrs":[{{"a":"{}"}}]}}"#, "x".repeat(4095));
        assert!(parse(&longest).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named_with_key_and_value() {
        let long = format!(r#"{{"mdev_type":"t","attrs":[{{"a":"{}"}}]}}"#, "x".repeat(4096));
        let long_says = format!(
            "attrs[0].a = \"{}…: longer than the 4095 bytes that sysfs takes",
            // The quotation mark counts.
            "x".repeat(119)
        );
        for (text, says) in [
            ("", "not JSON: EOF while parsing a value at line 1 column 0"),
            ("{\"mdev_type\": \"t\"", "not JSON: EOF while parsing an object at line 1 column 17"),
            ("{\"mdev_type\": \"t\"} x", "not JSON: trailing characters at line 1 column 20"),
            ("[]", "must be an object, and is a list of 0"),
            ("\"t\"", "must be an object, and is \"t\""),
            ("{}", "has no mdev_type"),
            ("{\"mdev_typ\":\"t\"}", "has no mdev_type"),
            ("{\"mdev_type\":\"t\"}", "has no start"),
            ("{\"mdev_type\":5}", "mdev_type = 5: must be a string"),
            ("{\"mdev_type\":null}", "mdev_type = null: must be a string"),
            ("{\"mdev_type\":[\"t\"]}", "mdev_type = a list of 1: must be a string"),
            ("{\"mdev_type\":\"\"}", "mdev_type = \"\": empty"),
            ("{\"mdev_type\":\"../x\"}", "mdev_type = \"../x\": a path is not allowed here"),
            ("{\"mdev_type\":\"a\\nb\"}", "mdev_type = \"a\\nb\": has a control character"),
            ("{\"mdev_type\":\"t\",\"mdev_type\":\"u\"}", "mdev_type stands there twice"),
            ("{\"mdev_type\":\"t\",\"start\":true}", "start = true: must be \"auto\" or \"manual\""),
            ("{\"mdev_type\":\"t\",\"start\":\"Auto\"}", "start = \"Auto\": must be \"auto\" or \"manual\""),
            ("{\"mdev_type\":\"t\",\"attrs\":{}}", "attrs = an object of 0: must be a list"),
            ("{\"mdev_type\":\"t\",\"attrs\":[],\"attrs\":[]}", "attrs stands there twice"),
            ("{\"mdev_type\":\"t\",\"attrs\":[\"a\"]}", "attrs[0] = \"a\": must be an object"),
            (
                "{\"mdev_type\":\"t\",\"attrs\":[{\"a\":\"1\",\"b\":\"2\"}]}",
                "attrs[0] = an object of 2: must name one attribute, so that the order is known",
            ),
            (
                "{\"mdev_type\":\"t\",\"attrs\":[{}]}",
                "attrs[0] = an object of 0: must name one attribute, so that the order is known",
            ),
            ("{\"mdev_type\":\"t\",\"attrs\":[{\"a\":\"1\",\"a\":\"2\"}]}", "attrs[0].a stands there twice"),
            ("{\"mdev_type\":\"t\",\"attrs\":[{\"a\":\"1\"},{\"b\":1}]}", "attrs[1].b = 1: must be a string"),
            (
                "{\"mdev_type\":\"t\",\"attrs\":[{\"a\":\"1\\u00002\"}]}",
                "attrs[0].a = \"1\\u{0}2\": has a NUL character",
            ),
            (
                "{\"mdev_type\":\"t\",\"attrs\":[{\"../../x\":\"1\"}]}",
                "attrs[0] names \"../../x\": leaves the device's directory",
            ),
            (
                "{\"mdev_type\":\"t\",\"attrs\":[{\"/etc/x\":\"1\"}]}",
                "attrs[0] names \"/etc/x\": an absolute path is not an attribute of the device",
            ),
            (
                "{\"mdev_type\":\"t\",\"attrs\":[{\"remove\":\"1\"}]}",
                "attrs[0] names \"remove\": belongs to the kernel's device model, not to the driver",
            ),
            (&long, &long_says),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), says, "{text}");
        }
    }

    #[test]
    fn depth_without_end_is_refused() {
        let deep = "[".repeat(64 * 1024);
        assert!(parse(&deep).unwrap_err().to_string().contains("recursion limit"));
    }

    proptest! {
        /// Whatever is cut out, doubled or overwritten, reading ends with a definition or a sentence of one line.
        #[test]
        fn no_text_makes_the_parser_panic(at in 0..GOOD.len(), len in 0usize..40, with in "\\PC{0,8}|[{}\\[\\]\",:\\\\]{0,4}") {
            let bytes = GOOD.as_bytes();
            let end = (at + len).min(bytes.len());
            let mutated = [&bytes[..at], with.as_bytes(), &bytes[end..]].concat();
            if let Err(bad) = parse(&String::from_utf8_lossy(&mutated)) {
                prop_assert!(!bad.to_string().contains('\n'), "{bad}");
            }
        }
    }
}
