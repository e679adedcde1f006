//! Pages that a front end has granted. They may change at any time: all access copies.

use abi::grant::GrantRef;

/// Part of a granted page to be copied from.
#[derive(Debug)]
pub struct Source<'a> {
    /// The page.
    pub gref: GrantRef,
    /// First byte.
    pub offset: u16,
    /// Where to.
    pub into: &'a mut [u8],
    /// Whether it has been done.
    pub done: bool,
}

/// Part of a granted page to be copied to.
#[derive(Debug)]
pub struct Target<'a> {
    /// The page.
    pub gref: GrantRef,
    /// First byte.
    pub offset: u16,
    /// Where from.
    pub from: &'a [u8],
    /// Whether it has been done.
    pub done: bool,
}

/// The pages that a front end has granted. What it has not granted so is not copied, and not `done`.
pub trait Grants {
    /// Copies out of them.
    fn copy_from(&self, sources: &mut [Source<'_>]);
    /// Copies into them.
    fn copy_to(&self, targets: &mut [Target<'_>]);
}
