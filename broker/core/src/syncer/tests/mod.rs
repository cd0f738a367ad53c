//! The machine against two small API servers, step by step and in every order.

mod interleaving;
mod leave;
mod order;
mod scenarios;
mod standard;
mod vouching;
mod world;
