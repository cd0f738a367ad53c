use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::{Event, EventKind, Place, State, Transaction, Window};
use crate::catalog::Catalog;
use crate::definition::ResourceKey;

/// What a collection holds: each object's resourceVersion.
type Snapshot = BTreeMap<Place, u64>;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Remove(u8, u8),
    /// Writes and takes them back.
    Vain(Vec<(u8, u8)>),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let place = || (0_u8..3, 0_u8..4);
    let step = prop_oneof![
        4 => place().prop_map(|(namespace, name)| Step::Put(namespace, name)),
        2 => place().prop_map(|(namespace, name)| Step::Remove(namespace, name)),
        1 => prop::collection::vec(place(), 1..4).prop_map(Step::Vain),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..5), 1..12)
}

fn at(namespace: u8, name: u8) -> Place {
    (format!("ns{namespace}"), format!("n{name}"))
}

fn key() -> ResourceKey {
    ResourceKey::new("", "things")
}

fn state(window: usize) -> State {
    let mut state = State::new(1, Arc::new(Catalog::default()), Window { events: window, bytes: usize::MAX });
    state.ensure(&key());
    state
}

fn put(transaction: &mut Transaction<'_>, place: Place) {
    let object = json!({"metadata": {"namespace": place.0, "name": place.1}});
    transaction.put(&key(), place, object);
}

/// Runs a batch and publishes it; gives its events.
fn run(state: &mut State, batch: &[Step]) -> Vec<Arc<Event>> {
    let mut transaction = Transaction::new(state, Timestamp::UNIX_EPOCH);
    for step in batch {
        match step {
            Step::Put(namespace, name) => put(&mut transaction, at(*namespace, *name)),
            Step::Remove(namespace, name) => drop(transaction.remove(&key(), at(*namespace, *name))),
            Step::Vain(places) => {
                let (mark, before) = (transaction.mark(), transaction.list(&key(), None).len());
                for (namespace, name) in places {
                    if transaction.remove(&key(), at(*namespace, *name)).is_none() {
                        put(&mut transaction, at(*namespace, *name));
                    }
                }
                transaction.roll_back(mark);
                assert_eq!(transaction.list(&key(), None).len(), before);
            }
        }
    }
    for namespace in 0..3 {
        let namespace = format!("ns{namespace}");
        assert_eq!(transaction.count(&key(), &namespace), transaction.list(&key(), Some(&namespace)).len());
    }
    let (events, version, catalog) = transaction.finish();
    let events: Vec<_> = events.into_iter().map(Arc::new).collect();
    state.publish(&events, version, catalog);
    events
}

fn snapshot(state: &State) -> Snapshot {
    let collection = state.collection(&key()).expect("ensured");
    collection.iter(None).map(|(place, object)| (place.clone(), object.version)).collect()
}

proptest! {
    /// Every page of a list shows the moment at which the list began.
    #[test]
    fn a_page_is_as_things_were(batches in steps(), cut in at_places(), within in prop::option::of(0_u8..3)) {
        let mut state = state(1_000);
        let mut then: Vec<(u64, Snapshot)> = vec![(1, Snapshot::new())];
        for batch in &batches {
            run(&mut state, batch);
            then.push((state.version, snapshot(&state)));
        }
        let namespace = within.map(|namespace| format!("ns{namespace}"));
        let collection = state.collection(&key()).expect("ensured");
        for (version, snapshot) in then {
            let page = collection.page(namespace.as_deref(), cut.as_ref(), version).expect("within the window");
            let found: Vec<_> = page.map(|(place, object)| (place, object.version)).collect();
            let wanted: Vec<_> = snapshot
                .into_iter()
                .filter(|(place, _)| cut.as_ref().is_none_or(|cut| place > cut))
                .filter(|(place, _)| namespace.as_ref().is_none_or(|namespace| place.0 == *namespace))
                .collect();
            prop_assert_eq!(found, wanted);
        }
    }

    /// A watch from any version that is still known leads to what is there now; from an older one it is refused.
    #[test]
    fn changes_lead_from_then_to_now(batches in steps(), window in 1_usize..8) {
        let mut state = state(window);
        let mut then: Vec<(u64, Snapshot)> = vec![(1, Snapshot::new())];
        let mut all = 0;
        for batch in &batches {
            all += run(&mut state, batch).len();
            then.push((state.version, snapshot(&state)));
        }
        let now = snapshot(&state);
        let collection = state.collection(&key()).expect("ensured");
        let mut known = 0;
        for (version, mut snapshot) in then {
            let Some(changes) = collection.changes(version, usize::MAX) else { continue };
            known += 1;
            for event in changes {
                let place = (event.namespace.clone(), event.name.clone());
                let before = match event.kind {
                    EventKind::Deleted => snapshot.remove(&place),
                    EventKind::Added | EventKind::Modified => snapshot.insert(place, event.version),
                };
                prop_assert_eq!(before, event.before.as_ref().map(|before| before.version));
                prop_assert_eq!(before.is_none(), event.kind == EventKind::Added);
            }
            prop_assert_eq!(&snapshot, &now);
        }
        prop_assert!(known > 0, "the present is always known");
        prop_assert!(all <= window || collection.changes(1, usize::MAX).is_none());
    }
}

fn at_places() -> impl Strategy<Value = Option<Place>> {
    prop::option::of((0_u8..3, 0_u8..4).prop_map(|(namespace, name)| at(namespace, name)))
}
