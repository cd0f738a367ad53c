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
    /// With Daisy as the dev profile builds it, instead of the release profile.
    #[arg(long, conflicts_with = "released")]
    pub(crate) dev: bool,
    /// With the image as it is released, for which everything is built once more.
    #[arg(long)]
    released: bool,
}

impl Daisy {
    /// What is to be packed.
    pub(crate) fn build(self) -> Build {
        match (self.dev, self.released) {
            (true, _) => Build::Dev,
            (false, true) => Build::Static,
            (false, false) => Build::Release,
        }
    }
}
