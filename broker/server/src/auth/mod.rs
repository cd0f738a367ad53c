//! Who asks, and by which token.

mod token;
mod user;

pub(crate) use token::{Claims, TokenKey};
pub use user::{AUTHENTICATED, MASTERS, User};
