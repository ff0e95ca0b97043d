//! A JSON parser that refuses documents which other programs could read differently.
//!
//! Go's decoder, which container engines use, takes the last of two equal keys and matches field names
//! without regard to case; other decoders do neither. Attackers use such differences to build an image that a
//! scanner and an engine understand differently (X5). This module refuses equal keys in any object, and, in
//! every object whose fields are known, two keys that match the same field. A field whose only key has
//! another case is read, as engines read it, because some build tools write such keys. Keys that users choose
//! (labels, annotations) may differ in case. This module limits the memory and stack that a document can use,
//! and must not know what any document means.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result, Subject};

/// Maximum nesting of objects and arrays. Image documents need six levels; every level uses stack.
pub(crate) const MAX_DEPTH: u32 = 64;

/// Maximum number of values in one document. A value uses up to about a hundred bytes of memory for two bytes
/// of text; half a million is more than the largest legitimate `manifest.json` holds.
pub(crate) const MAX_VALUES: u32 = 512 * 1024;

/// Parses `bytes`. `what` names the document in errors.
///
/// # Errors
/// [`Error::Malformed`] for bytes that are not JSON, for equal keys in one object, and past [`MAX_DEPTH`] or
/// [`MAX_VALUES`].
pub(crate) fn parse(what: &Subject, bytes: &[u8]) -> Result<Value> {
    let budget = Cell::new(MAX_VALUES);
    let strict = Strict { depth: MAX_DEPTH, budget: &budget };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    strict
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|cause| malformed(what, format!("bad JSON: {cause}")))
}

/// An object whose fields are known.
#[derive(Debug, Clone)]
pub(crate) struct Object<'a> {
    what: &'a Subject,
    /// The fields that are present, by their known names.
    fields: Vec<(&'a str, &'a Value)>,
}

impl<'a> Object<'a> {
    /// Reads `value` as an object with the fields `known`, in any case. Other keys are allowed and ignored.
    ///
    /// # Errors
    /// [`Error::Malformed`] when `value` is not an object, or has two keys for one of `known`.
    pub(crate) fn new(what: &'a Subject, value: &'a Value, known: &[&'a str]) -> Result<Self> {
        let keys = value.as_object().ok_or_else(|| malformed(what, "not a JSON object".to_owned()))?;
        let mut fields: Vec<(&str, &Value)> = Vec::new();
        for (key, value) in keys {
            let field = known.iter().find(|field| *field == key);
            let Some(field) = field.or_else(|| known.iter().find(|field| fold(field) == fold(key))) else {
                continue;
            };
            if fields.iter().any(|(earlier, _)| earlier == field) {
                let reason = format!("more than one key is '{field}', in upper or lower case");
                return Err(malformed(what, reason));
            }
            fields.push((field, value));
        }
        Ok(Object { what, fields })
    }

    /// Returns a field. A field that is `null` counts as absent, as in engines.
    #[must_use]
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        let found = self.fields.iter().find(|(field, _)| *field == key);
        found.map(|(_, value)| *value).filter(|value| !value.is_null())
    }

    /// Returns a string field.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the field has another type. The same applies to the methods below.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Returns a required string field.
    pub(crate) fn required_string(&self, key: &str) -> Result<&'a str> {
        self.string(key)?.ok_or_else(|| self.missing(key))
    }

    /// Returns a field that is a non-negative integer.
    pub(crate) fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a non-negative integer", Value::as_u64)
    }

    /// Returns a boolean field; `false` if absent.
    pub(crate) fn bool(&self, key: &str) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// Returns an array field; empty if absent.
    pub(crate) fn array(&self, key: &str) -> Result<&'a [Value]> {
        let array = self.typed(key, "an array", Value::as_array)?;
        Ok(array.map(Vec::as_slice).unwrap_or_default())
    }

    /// Returns a field that is an array of strings; empty if absent.
    pub(crate) fn strings(&self, key: &str) -> Result<Vec<String>> {
        self.array(key)?
            .iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong(key, "an array of strings"))
    }

    /// Returns a field that is an object of strings under keys that users choose; empty if absent.
    pub(crate) fn string_map(&self, key: &str) -> Result<BTreeMap<String, String>> {
        let Some(map) = self.typed(key, "an object", Value::as_object)? else {
            return Ok(BTreeMap::new());
        };
        map.iter()
            .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(|| self.wrong(key, "an object of strings"))
    }

    /// Creates the error for a required field that is absent.
    #[must_use]
    pub(crate) fn missing(&self, key: &str) -> Error {
        malformed(self.what, format!("'{key}' is missing"))
    }

    fn typed<T>(&self, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(key, wanted)),
        }
    }

    fn wrong(&self, key: &str, wanted: &str) -> Error {
        malformed(self.what, format!("'{key}' is not {wanted}"))
    }
}

/// Creates [`Error::Malformed`] about `what`.
pub(crate) fn malformed(what: &Subject, reason: impl Into<String>) -> Error {
    Error::malformed(what.clone(), reason)
}

/// Folds a key as Go's `encoding/json` compares it: simple case folding, in which the long s (U+017F) equals
/// s. The Kelvin sign (U+212A) becomes k by its lower case.
fn fold(key: &str) -> String {
    key.chars().flat_map(char::to_lowercase).map(|c| if c == '\u{17f}' { 's' } else { c }).collect()
}

/// Builds a [`Value`], counting depth and values.
#[derive(Clone, Copy)]
struct Strict<'b> {
    depth: u32,
    budget: &'b Cell<u32>,
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| E::custom(format_args!("deeper than the limit of {MAX_DEPTH} levels")))?;
        Ok(Strict { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left =
            self.budget.get().checked_sub(1).ok_or_else(|| {
                D::Error::custom(format_args!("more values than the limit of {MAX_VALUES}"))
            })?;
        self.budget.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(value) = access.next_element_seed(inner)? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                let key = key.escape_debug();
                return Err(A::Error::custom(format_args!("key '{key}' appears twice in one object")));
            }
            let value = access.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> String {
        parse(&Subject::Image, text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn x5_equal_keys_are_refused_at_any_depth() {
        assert!(reason(r#"{"a":1,"a":1}"#).contains("key 'a' appears twice"));
        assert!(reason(r#"{"x":[{"y":{"b":1,"b":2}}]}"#).contains("key 'b' appears twice"));
        assert!(reason(r#"{"a":1,"\u0061":2}"#).contains("key 'a' appears twice"));
    }

    #[test]
    fn x5_two_keys_for_one_field_are_refused() {
        for text in [
            r#"{"layers":[],"Layers":[]}"#,
            r#"{"LAYERS":[],"Layers":[]}"#,
            r#"{"Layers":null,"layers":[]}"#,
            "{\"layer\u{17f}\":[],\"layers\":[]}",
        ] {
            let value = parse(&Subject::Image, text.as_bytes()).unwrap();
            let error = Object::new(&Subject::Image, &value, &["layers"]).unwrap_err().to_string();
            assert!(
                error.ends_with("more than one key is 'layers', in upper or lower case"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn x5_a_lone_key_is_read_in_any_case_as_engines_read_it() {
        for text in [r#"{"layers":["a"]}"#, r#"{"Layers":["a"]}"#, "{\"LAYER\u{17f}\":[\"a\"]}"] {
            let value = parse(&Subject::Image, text.as_bytes()).unwrap();
            let object = Object::new(&Subject::Image, &value, &["size", "layers"]).unwrap();
            assert_eq!(object.strings("layers").unwrap(), ["a"], "{text}");
        }
    }

    #[test]
    fn x5_keys_that_users_choose_may_differ_in_case() {
        let value = parse(&Subject::Image, br#"{"Labels":{"Maintainer":"a","maintainer":"b"}}"#).unwrap();
        let object = Object::new(&Subject::Image, &value, &["Labels"]).unwrap();
        assert_eq!(object.string_map("Labels").unwrap().len(), 2);
    }

    #[test]
    fn x6_depth_and_number_of_values_are_bounded() {
        let levels = MAX_DEPTH as usize;
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(parse(&Subject::Image, nested(levels).as_bytes()).is_ok());
        assert!(reason(&nested(levels + 1)).contains("limit of 64 levels"));

        let row = |values: usize| format!("[{}1]", "1,".repeat(values - 1));
        let most = MAX_VALUES as usize - 1;
        assert!(parse(&Subject::Image, row(most).as_bytes()).is_ok());
        assert!(reason(&row(most + 1)).contains("limit of 524288"));
    }

    #[test]
    fn null_is_absent_and_other_types_are_refused() {
        let value = parse(&Subject::Image, br#"{"tags":null,"size":-1,"names":["a",1]}"#).unwrap();
        let object = Object::new(&Subject::Image, &value, &["tags", "size", "names"]).unwrap();
        assert_eq!(object.strings("tags").unwrap(), Vec::<String>::new());
        assert!(object.u64("size").is_err());
        assert!(object.strings("names").is_err());
    }

    #[test]
    fn bytes_after_the_document_are_refused() {
        assert!(reason("{} {}").contains("trailing characters"));
    }
}
