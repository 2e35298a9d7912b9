//! stub
pub const BLOCK: usize = 32;
