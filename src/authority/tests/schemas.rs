//! JSON Schema, keyword by keyword.

use serde_json::{Value, json};

use crate::authority::ScopeSchema;

fn errors(schema: Value, values: &[Value]) -> Vec<String> {
    let schema = ScopeSchema::new(&schema).unwrap();
    values.iter().map(|value| schema.validate(value).err().unwrap_or_default()).collect()
}

#[test]
fn values_are_judged_by_each_keyword() {
    for (schema, good, bad, message) in [
        (json!(false), None, json!(1), "no value is allowed here"),
        (json!({ "type": "string" }), Some(json!("a")), json!(1), "1 is not of the type string"),
        (
            json!({ "type": ["integer", "null"] }),
            Some(json!(null)),
            json!(1.5),
            "1.5 is not of the type integer or null",
        ),
        (json!({ "type": "integer" }), Some(json!(2.0)), json!(true), "true is not of the type integer"),
        (
            json!({ "type": "boolean" }),
            Some(json!(true)),
            json!("true"),
            "\"true\" is not of the type boolean",
        ),
        (json!({ "type": "array" }), Some(json!([])), json!({}), "{} is not of the type array"),
        (json!({ "type": "object" }), Some(json!({})), json!([]), "[] is not of the type object"),
        (json!({ "type": "number" }), Some(json!(0)), json!("0"), "\"0\" is not of the type number"),
        (json!({ "enum": ["a", 1] }), Some(json!(1.0)), json!("b"), "\"b\" is none of \"a\", 1"),
        (json!({ "const": "a" }), Some(json!("a")), json!("b"), "\"b\" is not \"a\""),
        (json!({ "minLength": 2 }), Some(json!("éé")), json!("a"), "1 characters, at least 2 are wanted"),
        (json!({ "maxLength": 1 }), Some(json!("é")), json!("ab"), "2 characters, at most 1 are allowed"),
        (json!({ "minItems": 1 }), Some(json!([1])), json!([]), "0 items, at least 1 are wanted"),
        (json!({ "maxItems": 1 }), Some(json!([1])), json!([1, 2]), "2 items, at most 1 are allowed"),
        (json!({ "uniqueItems": true }), Some(json!([1, 2])), json!([1, 1]), "the same item twice"),
        (
            json!({ "minProperties": 1 }),
            Some(json!({ "a": 1 })),
            json!({}),
            "0 fields, at least 1 are wanted",
        ),
        (
            json!({ "maxProperties": 0 }),
            Some(json!({})),
            json!({ "a": 1 }),
            "1 fields, at most 0 are allowed",
        ),
        (json!({ "minimum": 2 }), Some(json!(2)), json!(1.5), "1.5 is below 2"),
        (json!({ "maximum": 2 }), Some(json!(2)), json!(3), "3 is above 2"),
        (json!({ "exclusiveMinimum": 2 }), Some(json!(3)), json!(2), "2 is not above 2"),
        (json!({ "exclusiveMaximum": 2 }), Some(json!(1)), json!(2), "2 is not below 2"),
        (json!({ "format": "uint16" }), Some(json!(65535)), json!(65536), "65536 is not from 0 to 65535"),
        (json!({ "format": "int8" }), Some(json!(-128)), json!(-129), "-129 is not from -128 to 127"),
        (
            json!({ "items": { "type": "string" } }),
            Some(json!(["a"])),
            json!(["a", 1]),
            "/1: 1 is not of the type string",
        ),
        (
            json!({ "prefixItems": [{ "const": 1 }], "items": false }),
            Some(json!([1])),
            json!([1, 2]),
            "/1: no value is allowed here",
        ),
        (
            json!({ "required": ["a"] }),
            Some(json!({ "a": 1 })),
            json!({ "b": 1 }),
            "the field \"a\" is missing",
        ),
        (
            json!({ "properties": { "port": { "type": "integer" } } }),
            Some(json!({ "port": 1, "other": 2 })),
            json!({ "port": "x" }),
            "/port: \"x\" is not of the type integer",
        ),
        (
            json!({ "properties": { "port": {} }, "additionalProperties": false }),
            Some(json!({ "port": 1 })),
            json!({ "prot": 1 }),
            "/prot: unknown field; did you mean \"port\"?",
        ),
        (
            json!({ "additionalProperties": { "type": "integer" } }),
            Some(json!({ "a": 1 })),
            json!({ "a": "b" }),
            "/a: \"b\" is not of the type integer",
        ),
        (json!({ "allOf": [{ "minimum": 1 }, { "maximum": 2 }] }), Some(json!(1)), json!(3), "3 is above 2"),
        (
            json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] }),
            Some(json!(1)),
            json!(null),
            "null is none of the forms that it may have",
        ),
        (
            json!({ "anyOf": [{ "type": "string" }, { "properties": { "a": { "const": 1 } } }] }),
            Some(json!({ "a": 1 })),
            json!({ "a": 2 }),
            "/a: 2 is not 1",
        ),
        (
            json!({ "oneOf": [{ "minimum": 1 }, { "minimum": 2 }] }),
            Some(json!(1)),
            json!(2),
            "2 of the forms of which it must be one",
        ),
        (json!({ "not": { "const": 1 } }), Some(json!(2)), json!(1), "1 is excluded"),
        (
            json!({ "$ref": "#/$defs/a", "$defs": { "a": { "type": "string" } } }),
            Some(json!("x")),
            json!(1),
            "1 is not of the type string",
        ),
    ] {
        if let Some(good) = good {
            assert_eq!(
                errors(schema.clone(), std::slice::from_ref(&good)),
                [""],
                "{schema} must take {good}"
            );
        }
        assert_eq!(
            errors(schema.clone(), std::slice::from_ref(&bad)),
            [message],
            "{schema} must refuse {bad}"
        );
    }
}

#[test]
fn a_schema_may_refer_to_itself() {
    let tree = json!({
        "type": "object",
        "properties": { "children": { "type": "array", "items": { "$ref": "#" } } },
        "additionalProperties": false,
    });
    let got =
        errors(tree, &[json!({ "children": [{ "children": [] }] }), json!({ "children": [{ "x": 1 }] })]);
    assert_eq!(got, ["", "/children/0/x: unknown field"]);
    for circle in [
        json!({ "$ref": "#" }),
        json!({ "allOf": [{ "$ref": "#" }, { "$ref": "#" }] }),
        json!({ "anyOf": [{ "not": { "$ref": "#" } }, { "not": { "$ref": "#" } }] }),
    ] {
        assert_eq!(errors(circle, &[json!(1)]), ["the schema leads in circles for this value"]);
    }
}

#[test]
fn what_is_outside_of_the_profile_is_refused() {
    for (schema, message) in [
        (json!({ "pattern": "^a" }), "/pattern: this keyword is not supported"),
        (json!({ "properties": { "a": { "if": {} } } }), "/properties/a/if: this keyword is not supported"),
        (json!({ "typ": "string" }), "/typ: this keyword is not supported"),
        (json!({ "items": [{}] }), "/items: a schema is an object, true or false"),
        (json!("string"), "a schema is an object, true or false"),
        (
            json!({ "$ref": "https://a.example/b" }),
            "/$ref: a reference leads into the same schema, for example #/$defs/name",
        ),
        (
            json!({ "$ref": "#/x-own", "x-own": { "pattern": "a" } }),
            "/$ref: a reference leads into the same schema, for example #/$defs/name",
        ),
        (
            json!({ "$ref": "#/$defs/b", "$defs": {} }),
            "/$ref: a reference leads into the same schema, for example #/$defs/name",
        ),
        (
            json!({ "type": "text" }),
            "/type: a type is one of null, boolean, integer, number, string, array, object",
        ),
        (
            json!({ "type": [] }),
            "/type: a type is one of null, boolean, integer, number, string, array, object",
        ),
        (json!({ "enum": 1 }), "/enum: a list of values is wanted"),
        (json!({ "required": [1] }), "/required: a list of names is wanted"),
        (json!({ "maxLength": -1 }), "/maxLength: a count is wanted"),
        (json!({ "minimum": "1" }), "/minimum: a number is wanted"),
        (json!({ "uniqueItems": 1 }), "/uniqueItems: true or false is wanted"),
        (json!({ "format": 1 }), "/format: a string is wanted"),
        (json!({ "anyOf": [] }), "/anyOf: a list of schemas is wanted"),
        (json!({ "properties": [] }), "/properties: an object of schemas is wanted"),
    ] {
        assert_eq!(ScopeSchema::new(&schema).unwrap_err(), message, "{schema}");
    }
    let described = json!({ "title": "a", "description": "b", "$comment": "c", "default": 1, "x-own": true });
    assert!(ScopeSchema::new(&described).is_ok());
    let deep = (0..200).fold(json!({}), |inner, _| json!({ "not": inner }));
    assert_eq!(ScopeSchema::new(&deep).unwrap_err(), "nested deeper than 128");
}
