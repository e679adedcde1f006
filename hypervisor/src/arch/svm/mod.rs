//! AMD-V.
