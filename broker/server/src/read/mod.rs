//! Reads: get, list and watch, and the forms in which objects are shown.

mod list;
mod render;
mod table;
mod token;
mod watch;

pub(crate) use list::{ListQuery, Listed, list};
pub(crate) use render::{Form, Include, render_list, render_one};
pub(crate) use watch::{Start, WatchQuery, WatchStream};
