//! What one user may take of the server: requests a second, requests at a time, watches at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::auth::User;
use crate::options::Limits;
use crate::refusal::Refusal;

/// Users that are remembered before those at rest are forgotten.
const REMEMBERED: usize = 4_096;

#[derive(Debug)]
struct Share {
    /// Requests that may come at once.
    tokens: f64,
    at: Instant,
    in_flight: usize,
    watches: usize,
}

impl Share {
    fn refill(&mut self, limits: &Limits, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + seconds * limits.requests_per_second).min(limits.burst);
        self.at = now;
    }

    fn rests(&self, limits: &Limits) -> bool {
        self.in_flight == 0 && self.watches == 0 && self.tokens >= limits.burst
    }
}

/// All users' shares.
#[derive(Debug)]
pub(crate) struct Flow {
    limits: Arc<Limits>,
    shares: Mutex<HashMap<String, Share>>,
}

/// A request or a watch that counts as long as this is held.
#[derive(Debug)]
pub(crate) struct Ticket {
    flow: Arc<Flow>,
    user: String,
    watch: bool,
}

impl Flow {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self { limits, shares: Mutex::default() }
    }

    /// Lets a request in, or says when to come back.
    pub(crate) fn request(self: &Arc<Self>, user: &User, now: Instant) -> Result<Option<Ticket>, Refusal> {
        if user.is_master() {
            return Ok(None);
        }
        self.take(user, now, false, |share, limits| {
            if share.tokens < 1.0 {
                let wait = ((1.0 - share.tokens) / limits.requests_per_second).ceil().max(1.0);
                return Err(Refusal::too_many("too many requests, please try again later", wait.min(60.0) as u32));
            }
            if share.in_flight >= limits.in_flight_per_user {
                return Err(Refusal::too_many("too many requests at a time, please try again later", 1));
            }
            share.tokens -= 1.0;
            share.in_flight += 1;
            Ok(())
        })
    }

    /// Lets a watch in, beside the request that begins it.
    pub(crate) fn watch(self: &Arc<Self>, user: &User, now: Instant) -> Result<Option<Ticket>, Refusal> {
        if user.is_master() {
            return Ok(None);
        }
        self.take(user, now, true, |share, limits| {
            if share.watches >= limits.watches_per_user {
                let message = format!("too many watches: at most {} at a time are allowed", limits.watches_per_user);
                return Err(Refusal::too_many(message, 10));
            }
            share.watches += 1;
            Ok(())
        })
    }

    fn take(
        self: &Arc<Self>,
        user: &User,
        now: Instant,
        watch: bool,
        claim: impl FnOnce(&mut Share, &Limits) -> Result<(), Refusal>,
    ) -> Result<Option<Ticket>, Refusal> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() >= REMEMBERED && !shares.contains_key(&user.name) {
            shares.retain(|_, share| {
                share.refill(&self.limits, now);
                !share.rests(&self.limits)
            });
        }
        let share = shares.entry(user.name.clone()).or_insert_with(|| Share {
            tokens: self.limits.burst,
            at: now,
            in_flight: 0,
            watches: 0,
        });
        share.refill(&self.limits, now);
        claim(share, &self.limits)?;
        Ok(Some(Ticket { flow: self.clone(), user: user.name.clone(), watch }))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut shares = self.flow.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get_mut(&self.user) {
            let count = if self.watch { &mut share.watches } else { &mut share.in_flight };
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn flow() -> Arc<Flow> {
        let limits =
            Limits { requests_per_second: 2.0, burst: 3.0, in_flight_per_user: 2, watches_per_user: 1, ..Limits::default() };
        Arc::new(Flow::new(Arc::new(limits)))
    }

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let (flow, user, start) = (flow(), User::service_account("a", "b", "u"), Instant::now());
        for _ in 0..3 {
            flow.request(&user, start).expect("within the burst");
        }
        let refusal = flow.request(&user, start).expect_err("the burst is over");
        assert_eq!((refusal.code, refusal.retry_after), (429, Some(1)));
        flow.request(&user, start + Duration::from_millis(500)).expect("one more");
        flow.request(&User::service_account("a", "c", "u"), start).expect("another user");
        for _ in 0..10 {
            flow.request(&User::administrator(), start).expect("no limit");
        }
    }

    #[test]
    fn so_many_at_a_time() {
        let (flow, user, start) = (flow(), User::service_account("a", "b", "u"), Instant::now());
        let first = flow.request(&user, start).expect("one");
        let _second = flow.request(&user, start).expect("two");
        assert_eq!(flow.request(&user, start).expect_err("three").code, 429);
        drop(first);
        flow.request(&user, start).expect("one has ended");
        let watch = flow.watch(&user, start).expect("one");
        assert_eq!(flow.watch(&user, start).expect_err("two").code, 429);
        drop(watch);
        flow.watch(&user, start).expect("the first has ended");
    }
}
