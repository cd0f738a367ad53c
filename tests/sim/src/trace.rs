//! Every delivery and every write, told when a seed that failed is run again: it costs more than all the rest.

use std::cell::RefCell;
use std::rc::Rc;

use daisy_broker_core::object::{Kind, Object, Place};
use daisy_broker_core::syncer::{Action, Verb};
use daisy_broker_core::time::Now;

/// Where it is told; nowhere, unless it was begun.
#[derive(Clone, Default)]
pub(crate) struct Trace(Option<Rc<RefCell<Vec<String>>>>);

impl Trace {
    pub(crate) fn begun() -> Self {
        Self(Some(Rc::default()))
    }

    pub(crate) fn tell(&self, now: Now, what: impl FnOnce() -> String) {
        if let Some(lines) = &self.0 {
            let line = format!("at {:.3} s: {}", now.monotonic.as_secs_f64(), what());
            lines.borrow_mut().push(line);
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.as_ref().map(|lines| lines.borrow().clone()).unwrap_or_default()
    }
}

/// An object in a line: its name, its sequence, its addresses.
pub(crate) fn object(object: &Object) -> String {
    let place = if Kind::BROKER.contains(&object.kind()) { Place::Broker } else { Place::Here };
    let name = object.reference(place);
    match object {
        Object::Member(o) => format!("{name} granted {} (generation {:?})", o.spec.grant, o.metadata.generation),
        Object::Cluster(o) => format!("{name} #{}", o.spec.envelope.sequence),
        Object::Heartbeat(o) => format!("{name} #{} for {} records", o.spec.sequence, o.spec.records),
        Object::Export(o) => format!("{name} #{}", o.spec.envelope.sequence),
        Object::ExportEndpoints(o) => {
            let list: Vec<String> = o.spec.endpoints.iter().flat_map(|e| e.addresses.iter().map(ToString::to_string)).collect();
            format!("{name} #{} [{}]", o.spec.envelope.sequence, list.join(" "))
        }
        Object::EndpointSlice(o) => {
            let list: Vec<String> = o.endpoints.iter().flat_map(|e| e.addresses.clone()).collect();
            format!("{name} [{}]", list.join(" "))
        }
        Object::ServiceExport(_)
        | Object::ServiceImport(_)
        | Object::Service(_)
        | Object::Namespace(_)
        | Object::Node(_)
        | Object::Gateway(_) => name.to_string(),
    }
}

/// A write in a line.
pub(crate) fn action(action: &Action) -> String {
    let place = action.place();
    match &action.verb {
        Verb::Create(new) => format!("new {} on {place:?}", object(new)),
        Verb::Replace(new) => format!("{} on {place:?}", object(new)),
        Verb::Status(new) => format!("the status of {} on {place:?}", object(new)),
        Verb::Delete { .. } => format!("the end of {}", action.reference),
        Verb::Annotate { .. } => format!("the address of {}", action.reference),
    }
}
