//! Lists, whole or in pages. All pages of a list show the same moment.

use std::sync::Arc;

use super::token::ContinueToken;
use crate::catalog::Served;
use crate::object::Stored;
use crate::options::Limits;
use crate::refusal::{Cause, Refusal};
use crate::selector::Selectors;
use crate::store::{Place, Store};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListQuery {
    /// `None` for all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) selectors: Selectors,
    pub(crate) limit: Option<usize>,
    pub(crate) next: Option<String>,
    /// `resourceVersion`; 0 and none are the same: what is there now.
    pub(crate) version: u64,
    /// `resourceVersionMatch=Exact`.
    pub(crate) exact: bool,
}

/// What is there.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) version: u64,
    pub(crate) items: Vec<(Place, Arc<Stored>)>,
    pub(crate) next: Option<String>,
}

fn too_old() -> Refusal {
    Refusal::expired(
        "The provided continue parameter or resourceVersion is too old to display a consistent list result: begin the list anew",
    )
}

/// Lists the objects of a resource.
pub(crate) fn list(store: &Store, served: &Served, query: &ListQuery, limits: &Limits) -> Result<Listed, Refusal> {
    let token = query.next.as_deref().map(ContinueToken::decode).transpose()?;
    let limit = query.limit.filter(|limit| *limit > 0).map(|limit| limit.min(limits.page));
    let state = store.read();
    let version = match &token {
        // A token of a server that was restored from an older copy is as good as expired.
        Some(token) if token.version > state.version => return Err(too_old()),
        Some(token) => token.version,
        None if query.version > state.version => {
            let message = format!("Too large resource version: {}, current: {}", query.version, state.version);
            let cause = Cause::new("ResourceVersionTooLarge", "", "Too large resource version");
            let mut refusal = Refusal::new(504, "Timeout", message).because(vec![cause]);
            refusal.retry_after = Some(1);
            return Err(refusal);
        }
        None if query.exact && query.version > 0 => query.version,
        None => state.version,
    };
    let after = token.map(|token| (token.namespace, token.name));
    let Some(collection) = state.collection(&served.key) else {
        return Ok(Listed { version, items: Vec::new(), next: None });
    };
    let mut page = collection.page(query.namespace.as_deref(), after.as_ref(), version).ok_or_else(too_old)?;
    let cheap = query.selectors.fields.is_cheap();
    let selected = |(place, object): &(Place, Arc<Stored>)| query.selectors.matches(&place.0, &place.1, object);
    let most = limit.unwrap_or(limits.unpaged);
    let items: Vec<_> = if cheap {
        page.by_ref().filter(selected).take(most.saturating_add(1)).collect()
    } else {
        // Looking into objects is too slow under the lock.
        let all: Vec<_> = page.by_ref().collect();
        drop(page);
        drop(state);
        all.into_iter().filter(selected).take(most.saturating_add(1)).collect()
    };
    cut(items, version, limit, limits)
}

fn cut(mut items: Vec<(Place, Arc<Stored>)>, version: u64, limit: Option<usize>, limits: &Limits) -> Result<Listed, Refusal> {
    let mut next = None;
    match limit {
        Some(limit) if items.len() > limit => {
            items.truncate(limit);
            next = items.last().map(|((namespace, name), _)| {
                ContinueToken { version, namespace: namespace.clone(), name: name.clone() }.encode()
            });
        }
        None if items.len() > limits.unpaged => {
            return Err(Refusal::bad_request(format!(
                "the list has more than {} objects: ask for pages, with limit",
                limits.unpaged
            )));
        }
        Some(_) | None => {}
    }
    Ok(Listed { version, items, next })
}
