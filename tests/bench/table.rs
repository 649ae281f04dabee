//! The rows, as a table for people and as JSON.

use std::fmt;

/// How far over its goal a time may be before `--check` fails: these machines are noisy, and nobody is to tune the
/// number of repetitions.
const TOLERANCE: f64 = 1.5;

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    /// The same on every machine.
    Count(f64),
    /// A ratio of times, and the quartiles of the ratios of single turns.
    Ratio { median: f64, low: f64, high: f64 },
}

impl Value {
    fn number(self) -> f64 {
        match self {
            Self::Count(number) => number,
            Self::Ratio { median, .. } => median,
        }
    }
}

#[derive(Debug)]
struct Row {
    measure: String,
    against: String,
    value: Value,
    unit: &'static str,
    /// None: reported only.
    goal: Option<f64>,
}

impl Row {
    fn holds(&self) -> bool {
        let allowed = match self.value {
            Value::Count(_) => 1.0,
            Value::Ratio { .. } => TOLERANCE,
        };
        self.goal.is_none_or(|goal| self.value.number() <= goal * allowed)
    }

    fn shown(&self) -> String {
        match self.value {
            Value::Count(number) => format!("{number} {}", self.unit),
            Value::Ratio { median, low, high } => format!("{median:.2} × ({low:.2}–{high:.2})"),
        }
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn count(
        &mut self,
        measure: &str,
        against: &str,
        number: f64,
        unit: &'static str,
        goal: Option<f64>,
    ) {
        let row =
            Row { measure: measure.into(), against: against.into(), value: Value::Count(number), unit, goal };
        self.0.push(row);
    }

    pub(crate) fn ratio(&mut self, measure: &str, against: &str, value: Value, goal: Option<f64>) {
        self.0.push(Row { measure: measure.into(), against: against.into(), value, unit: "×", goal });
    }

    /// A line for each row that is over its goal, a time by more than the tolerance.
    pub(crate) fn missed(&self) -> Vec<String> {
        let missed = self.0.iter().filter(|row| !row.holds());
        missed
            .map(|row| {
                let goal = row.goal.unwrap_or_default();
                format!(
                    "{}, {}: {}, where at most {goal} {} are allowed",
                    row.measure,
                    row.against,
                    row.shown(),
                    row.unit
                )
            })
            .collect()
    }

    pub(crate) fn json(&self) -> String {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|row| {
                let spread = match row.value {
                    Value::Count(_) => None,
                    Value::Ratio { low, high, .. } => Some([low, high]),
                };
                serde_json::json!({
                    "measure": row.measure, "against": row.against, "value": row.value.number(),
                    "unit": row.unit, "goal": row.goal, "quartiles": spread,
                })
            })
            .collect();
        format!("{:#}\n", serde_json::Value::from(rows))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "| measure | against | seen | goal |\n|---|---|---|---|")?;
        for row in &self.0 {
            let goal = row.goal.map_or_else(|| "–".to_owned(), |goal| format!("≤ {goal}"));
            writeln!(out, "| {} | {} | {} | {goal} |", row.measure, row.against, row.shown())?;
        }
        Ok(())
    }
}
