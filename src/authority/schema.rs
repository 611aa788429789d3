//! JSON Schema, as far as scope values need it.
//!
//! Owns the profile of Draft 2020-12 that interfaces are written in. What is outside of it is refused when a schema is
//! read: to pass over a keyword would pass values that its author meant to refuse.
//!
//! A validator crate would double the library's dependencies: without features it has 63 packages, and `jsonschema` alone
//! has 75, `boon` 73 (2026-11).

use serde_json::{Map, Value};

/// A JSON Schema of scope values.
///
/// Known are `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `minProperties`,
/// `maxProperties`, `items`, `prefixItems`, `minItems`, `maxItems`, `uniqueItems`, `minLength`, `maxLength`, `minimum`,
/// `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `allOf`, `anyOf`, `oneOf`, `not`, `$ref` into the same document,
/// and the keywords that only describe. Of `format`, the integers of Rust are looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeSchema(Value);

/// Schemas that describe a value each apply to it, one after the other; more of them than this is taken for a circle.
const MAX_STEPS: u32 = 100_000;

/// How deep a schema may nest, and how many references may lead on to the next.
const MAX_DEPTH: u32 = 128;

/// Keywords that only describe.
const ANNOTATIONS: [&str; 10] = [
    "$comment",
    "$id",
    "$schema",
    "default",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

impl ScopeSchema {
    /// Reads a schema.
    ///
    /// # Errors
    /// What is outside of the profile or not well-formed, and where in it.
    pub fn new(schema: &Value) -> Result<Self, String> {
        let reader = SchemaReader { root: schema };
        reader.schema(schema, "", 0)?;
        Ok(ScopeSchema(schema.clone()))
    }

    /// The schema.
    #[must_use]
    pub fn as_value(&self) -> &Value {
        &self.0
    }

    /// Whether a value is as the schema describes.
    ///
    /// # Errors
    /// What is wrong with it, and where in the value.
    pub fn validate(&self, value: &Value) -> Result<(), String> {
        let mut validator = Validator { root: &self.0, steps: 0, exhausted: false };
        let checked = validator.value(&self.0, value, "", 0);
        if validator.exhausted {
            // Whatever came out: below a `not` it would be the opposite.
            return Err("the schema leads in circles for this value".to_owned());
        }
        checked.map_err(|wrong| format!("{}{}", place(&wrong.at), wrong.message))
    }
}

/// The schema that a reference names: the whole, or one of its definitions. Nothing else in a document is known to be a
/// schema.
fn resolve<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    let path = reference.strip_prefix('#')?;
    if path.is_empty() {
        return Some(root);
    }
    let (key, name) = path.strip_prefix('/')?.split_once('/')?;
    ["$defs", "definitions"].contains(&key).then(|| root.get(key)?.get(name))?
}

/// Checks a schema itself.
struct SchemaReader<'s> {
    root: &'s Value,
}

impl SchemaReader<'_> {
    fn schema(&self, schema: &Value, at: &str, depth: u32) -> Result<(), String> {
        let map = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(map) => map,
            _ => return Err(format!("{}a schema is an object, true or false", place(at))),
        };
        if depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        map.iter().try_for_each(|(key, value)| self.keyword(key, value, &format!("{at}/{key}"), depth))
    }

    fn keyword(&self, key: &str, value: &Value, at: &str, depth: u32) -> Result<(), String> {
        let wanted = |sound: bool, what: &str| {
            if sound { Ok(()) } else { Err(format!("{}{what}", place(at))) }
        };
        match key {
            "$ref" => {
                let found = value.as_str().and_then(|text| resolve(self.root, text));
                wanted(found.is_some(), "a reference leads into the same schema, for example #/$defs/name")
            }
            "$defs" | "definitions" | "properties" => match value {
                Value::Object(map) => {
                    map.iter().try_for_each(|(k, v)| self.schema(v, &format!("{at}/{k}"), depth + 1))
                }
                _ => wanted(false, "an object of schemas is wanted"),
            },
            "additionalProperties" | "items" | "not" => self.schema(value, at, depth + 1),
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => match value.as_array() {
                Some(list) if !list.is_empty() => list
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, schema)| self.schema(schema, &format!("{at}/{i}"), depth + 1)),
                _ => wanted(false, "a list of schemas is wanted"),
            },
            "type" => {
                let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
                let all = value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(known));
                wanted(
                    known(value) || all,
                    "a type is one of null, boolean, integer, number, string, array, object",
                )
            }
            "enum" => wanted(value.is_array(), "a list of values is wanted"),
            "required" => {
                let names = value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
                wanted(names, "a list of names is wanted")
            }
            "minProperties" | "maxProperties" | "minItems" | "maxItems" | "minLength" | "maxLength" => {
                wanted(value.is_u64(), "a count is wanted")
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                wanted(value.is_number(), "a number is wanted")
            }
            "uniqueItems" => wanted(value.is_boolean(), "true or false is wanted"),
            "format" => wanted(value.is_string(), "a string is wanted"),
            "const" => Ok(()),
            _ if ANNOTATIONS.contains(&key) || key.starts_with("x-") => Ok(()),
            _ => wanted(false, "this keyword is not supported"),
        }
    }
}

fn place(at: &str) -> String {
    if at.is_empty() { String::new() } else { format!("{at}: ") }
}

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// What is wrong with a value.
struct Wrong {
    /// A JSON pointer into the value.
    at: String,
    message: String,
}

/// Applies a schema that was checked; what it doesn't understand is not there.
struct Validator<'s> {
    root: &'s Value,
    steps: u32,
    exhausted: bool,
}

type Checked = Result<(), Wrong>;

impl Validator<'_> {
    fn value(&mut self, schema: &Value, value: &Value, at: &str, depth: u32) -> Checked {
        self.steps += 1;
        if self.steps > MAX_STEPS || depth > 2 * MAX_DEPTH {
            self.exhausted = true;
            return wrong(at, "");
        }
        let map = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Object(map) => map,
            _ => return wrong(at, "no value is allowed here"),
        };
        if let Some(target) =
            map.get("$ref").and_then(Value::as_str).and_then(|text| resolve(self.root, text))
        {
            self.value(target, value, at, depth + 1)?;
        }
        kind(map, value, at)?;
        match value {
            Value::String(text) => length(map, text, at)?,
            Value::Number(_) => range(map, value, at)?,
            Value::Array(items) => self.items(map, items, at, depth)?,
            Value::Object(fields) => self.fields(map, fields, at, depth)?,
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(map, value, at, depth)
    }

    fn items(&mut self, map: &Map<String, Value>, items: &[Value], at: &str, depth: u32) -> Checked {
        count(map, ("minItems", "maxItems"), items.len(), "items", at)?;
        let repeated = |(i, item): (usize, &Value)| items[..i].contains(item);
        if map.get("uniqueItems") == Some(&Value::Bool(true)) && items.iter().enumerate().any(repeated) {
            return wrong(at, "the same item twice");
        }
        let first = map.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for (i, item) in items.iter().enumerate() {
            if let Some(schema) = first.get(i).or_else(|| map.get("items")) {
                self.value(schema, item, &format!("{at}/{i}"), depth + 1)?;
            }
        }
        Ok(())
    }

    fn fields(
        &mut self,
        map: &Map<String, Value>,
        fields: &Map<String, Value>,
        at: &str,
        depth: u32,
    ) -> Checked {
        count(map, ("minProperties", "maxProperties"), fields.len(), "fields", at)?;
        let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
        if let Some(name) = required.filter_map(Value::as_str).find(|name| !fields.contains_key(*name)) {
            return wrong(at, format!("the field \"{name}\" is missing"));
        }
        let known = map.get("properties").and_then(Value::as_object);
        for (name, field) in fields {
            let at = format!("{at}/{name}");
            match (known.and_then(|known| known.get(name)), map.get("additionalProperties")) {
                (Some(schema), _) => self.value(schema, field, &at, depth + 1)?,
                (None, Some(Value::Bool(false))) => {
                    let names = known.into_iter().flat_map(Map::keys).map(String::as_str);
                    let near = super::source::nearest(name, names);
                    let help = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
                    return wrong(&at, format!("unknown field{help}"));
                }
                (None, Some(schema)) => self.value(schema, field, &at, depth + 1)?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn combined(&mut self, map: &Map<String, Value>, value: &Value, at: &str, depth: u32) -> Checked {
        let list = |key: &str| map.get(key).and_then(Value::as_array).map(Vec::as_slice);
        for schema in list("allOf").into_iter().flatten() {
            self.value(schema, value, at, depth + 1)?;
        }
        for (key, most) in [("anyOf", usize::MAX), ("oneOf", 1)] {
            let Some(schemas) = list(key) else { continue };
            let results: Vec<Checked> =
                schemas.iter().map(|schema| self.value(schema, value, at, depth + 1)).collect();
            let met = results.iter().filter(|result| result.is_ok()).count();
            if met > most {
                return wrong(at, format!("{met} of the forms of which it must be one"));
            }
            if met == 0 {
                // The form that it comes nearest to is the one that it agrees with the longest.
                let nearest = results.into_iter().filter_map(Result::err).max_by_key(|wrong| wrong.at.len());
                return Err(nearest.filter(|wrong| wrong.at.len() > at.len()).unwrap_or_else(|| Wrong {
                    at: at.to_owned(),
                    message: format!("{} is none of the forms that it may have", shown(value)),
                }));
            }
        }
        match map.get("not") {
            Some(schema) if self.value(schema, value, at, depth + 1).is_ok() => {
                wrong(at, format!("{} is excluded", shown(value)))
            }
            _ => Ok(()),
        }
    }
}

fn wrong(at: &str, message: impl Into<String>) -> Checked {
    Err(Wrong { at: at.to_owned(), message: message.into() })
}

/// `type`, `enum` and `const`.
fn kind(map: &Map<String, Value>, value: &Value, at: &str) -> Checked {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    if let Some(types) = map.get("type") {
        let names: Vec<&str> = match types {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        if !names.iter().any(|name| is(name)) {
            return wrong(at, format!("{} is not of the type {}", shown(value), names.join(" or ")));
        }
    }
    if let Some(Value::Array(allowed)) = map.get("enum")
        && !allowed.iter().any(|own| same(own, value))
    {
        let list: Vec<String> = allowed.iter().take(8).map(Value::to_string).collect();
        return wrong(at, format!("{} is none of {}", shown(value), list.join(", ")));
    }
    match map.get("const") {
        Some(own) if !same(own, value) => wrong(at, format!("{} is not {own}", shown(value))),
        _ => Ok(()),
    }
}

/// Numbers are equal by what they are worth.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        _ => a == b,
    }
}

fn length(map: &Map<String, Value>, text: &str, at: &str) -> Checked {
    count(map, ("minLength", "maxLength"), text.chars().count(), "characters", at)
}

fn count(
    map: &Map<String, Value>,
    (least, most): (&str, &str),
    count: usize,
    what: &str,
    at: &str,
) -> Checked {
    let bound = |key| map.get(key).and_then(Value::as_u64);
    let count = count as u64;
    match (bound(least), bound(most)) {
        (Some(least), _) if count < least => {
            wrong(at, format!("{count} {what}, at least {least} are wanted"))
        }
        (_, Some(most)) if count > most => wrong(at, format!("{count} {what}, at most {most} are allowed")),
        _ => Ok(()),
    }
}

fn range(map: &Map<String, Value>, value: &Value, at: &str) -> Checked {
    let bound = |key: &str| map.get(key).filter(|bound| bound.is_number());
    let less = |a: &Value, b: &Value| match (integer(a), integer(b)) {
        (Some(a), Some(b)) => a < b,
        _ => a.as_f64() < b.as_f64(),
    };
    if let Some(least) = bound("minimum").filter(|least| less(value, least)) {
        return wrong(at, format!("{value} is below {least}"));
    }
    if let Some(most) = bound("maximum").filter(|most| less(most, value)) {
        return wrong(at, format!("{value} is above {most}"));
    }
    if let Some(low) = bound("exclusiveMinimum").filter(|low| !less(low, value)) {
        return wrong(at, format!("{value} is not above {low}"));
    }
    if let Some(high) = bound("exclusiveMaximum").filter(|high| !less(value, high)) {
        return wrong(at, format!("{value} is not below {high}"));
    }
    let range = match map.get("format").and_then(Value::as_str) {
        Some("int8") => i128::from(i8::MIN)..=i128::from(i8::MAX),
        Some("int16") => i128::from(i16::MIN)..=i128::from(i16::MAX),
        Some("int32") => i128::from(i32::MIN)..=i128::from(i32::MAX),
        Some("int64") => i128::from(i64::MIN)..=i128::from(i64::MAX),
        Some("uint8") => 0..=i128::from(u8::MAX),
        Some("uint16") => 0..=i128::from(u16::MAX),
        Some("uint32") => 0..=i128::from(u32::MAX),
        Some("uint64") => 0..=i128::from(u64::MAX),
        _ => return Ok(()),
    };
    match integer(value) {
        Some(n) if range.contains(&n) => Ok(()),
        _ => wrong(at, format!("{value} is not from {} to {}", range.start(), range.end())),
    }
}

fn integer(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

/// A value as a message repeats it.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 64;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
