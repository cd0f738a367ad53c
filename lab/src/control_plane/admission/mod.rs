pub(crate) mod field;
pub(crate) mod service;
