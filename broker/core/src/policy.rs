//! What a record may say, given its Member.
