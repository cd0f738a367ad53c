//! The machine against two small API servers, step by step and in every order.

mod interleaving;
mod leave;
mod order;
mod paths;
mod scenarios;
mod standard;
mod vouching;
mod world;

use std::time::Duration;

use world::{World, endpoints, export, namespace};

const MINUTE: Duration = Duration::from_secs(60);

/// A world in which shop/cart is imported from b.
fn with_import() -> World {
    let mut world = World::started();
    world.put_here(namespace("shop", false));
    world.join("b", "all");
    world.put_broker(export("b", "shop/cart", 2, 0));
    world.put_broker(endpoints("b", "shop/cart", 3, &[7]));
    world.beat("b", 4);
    world.settle();
    assert_eq!(world.addresses("shop/cart"), ["10.2.0.7"]);
    world
}
