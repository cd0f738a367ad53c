//! What the chores on beds are told alike.

use crate::image::Build;

/// Which bed.
#[derive(clap::Args)]
pub(crate) struct Name {
    /// The bed's name; beds of other names do not disturb each other.
    #[arg(long, default_value = "default")]
    pub(crate) name: String,
}

/// Which build of Daisy.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Daisy {
    /// With Daisy as the dev profile builds it, its shared libraries beside it, instead of as it is released: quick to build, larger, slower.
    #[arg(long)]
    pub(crate) dev: bool,
}

impl Daisy {
    /// What is to be packed.
    pub(crate) fn build(self) -> Build {
        if self.dev { Build::Dev } else { Build::Static }
    }
}
