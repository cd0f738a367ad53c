//! The registrar: who becomes a member, and with which ranges.
