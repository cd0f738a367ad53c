//! The schemas of Kubernetes' own types that our kinds hold, with the limits that Kubernetes' definitions put on them. `k8s-openapi`
//! has a feature with those of all its types, which takes longer to build than its types do.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A point in time, as RFC 3339 writes it.
pub(super) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// A point in time, or none.
pub(super) fn optional_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "format": "date-time" })
}

/// `metav1.Condition`s, one of a type.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "description": "One aspect of the object's state.",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "When the status last changed.",
                },
                "message": {
                    "type": "string",
                    "maxLength": 32768,
                    "description": "For people: what is so, and what to do.",
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "description": "The generation of the object that this was seen of.",
                },
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    "description": "For programs: why, in CamelCase.",
                },
                "status": {
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                    "description": "Whether it is so.",
                },
                "type": {
                    "type": "string",
                    "maxLength": 316,
                    "pattern": concat!(
                        r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?",
                        r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
                    ),
                    "description": "Which aspect, in CamelCase.",
                },
            },
        },
    })
}

/// `corev1.SessionAffinityConfig`, or none.
pub(super) fn session_affinity_config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "properties": {
            "clientIP": {
                "type": "object",
                "description": "For session affinity by the client's address.",
                "properties": {
                    "timeoutSeconds": {
                        "type": "integer",
                        "format": "int32",
                        "description": "For how long a client stays with its endpoint, in seconds: 1 to 86,400. 10,800 where nothing is said.",
                    },
                },
            },
        },
    })
}
