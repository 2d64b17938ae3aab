//! JSON objects, read field by field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A field that is missing or of another kind than the contract says.
pub type Wrong = String;

/// One JSON object, read field by field. The contract's types are plain, and reading them by hand keeps procedural macros
/// out of a static build.
pub struct Fields(Map<String, Value>);

impl Fields {
    pub fn of(value: Value) -> Result<Fields, Wrong> {
        match value {
            Value::Object(map) => Ok(Fields(map)),
            other => Err(format!("{other} is not an object")),
        }
    }

    pub fn maybe<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<Option<T>, Wrong> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(&value).map(Some).ok_or_else(|| format!("field {name:?} cannot be {value}")),
        }
    }

    pub fn must<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<T, Wrong> {
        self.maybe(name, read)?.ok_or_else(|| format!("field {name:?} is missing"))
    }

    /// A misspelt field would be a step that does less than was asked.
    pub fn end(self) -> Result<(), Wrong> {
        self.0.keys().next().map_or(Ok(()), |name| Err(format!("field {name:?} is unknown")))
    }
}

pub fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

pub fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(text).collect()
}

pub fn pairs(value: &Value) -> Option<BTreeMap<String, String>> {
    value.as_object()?.iter().map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

pub fn u32(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}
