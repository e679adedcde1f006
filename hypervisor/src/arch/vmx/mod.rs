//! Intel VT-x.
