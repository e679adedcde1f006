//! Payloads as Linux's build packs them: the compressed stream, for most formats followed by the unpacked length.
//!
//! The length in the image is not believed. Output never grows beyond the caller's limit.

use alloc::vec::Vec;

use lzma_rust2::{Read as _, XzReader};
use ruzstd::io::Read as _;

use crate::kernel::Error;

/// Window that is enough for what Linux's build uses (zstd -22 --ultra: 128 MiB), but no more.
const MAX_WINDOW: u64 = 128 << 20;

/// Unpack `payload`, to at most `limit` bytes. `None`: not compressed in any known way.
pub(crate) fn decompress(payload: &[u8], limit: usize) -> Option<Result<Vec<u8>, Error>> {
    Some(match payload {
        [0x1f, 0x8b, ..] => gzip(payload, limit),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => xz(payload, limit),
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4_legacy(payload, limit),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd(payload, limit),
        [b'B', b'Z', b'h', ..] => Err(Error::UnsupportedCompression("bzip2")),
        [0x5d, 0, 0, ..] => Err(Error::UnsupportedCompression("lzma")),
        [0x89, b'L', b'Z', b'O', ..] => Err(Error::UnsupportedCompression("lzo")),
        _ => return None,
    })
}

/// The unpacked length that Linux's build appends. Only a hint: it saves growing the output, which costs time and twice the memory.
fn claimed_len(data: &[u8]) -> Option<usize> {
    data.last_chunk().map(|len| u32::from_le_bytes(*len) as usize)
}

fn with_room_for(claimed: Option<usize>, limit: usize) -> Result<Vec<u8>, Error> {
    const SLACK: usize = 8 << 20;
    let mut out = Vec::new();
    if let Some(len) = claimed.filter(|&len| len <= limit) {
        out.try_reserve_exact(len.saturating_add(SLACK))
            .map_err(|_| Error::OutOfMemory)?;
    }
    Ok(out)
}

/// RFC 1952.
fn gzip(data: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    const CORRUPT: Error = Error::CorruptPayload("gzip");
    const DEFLATE: u8 = 8;
    let flags = *data.get(3).ok_or(CORRUPT)?;
    if data.get(2) != Some(&DEFLATE) {
        return Err(CORRUPT);
    }
    let mut body = data.get(10..).ok_or(CORRUPT)?;
    if flags & 4 != 0 {
        let (len, rest) = body.split_first_chunk::<2>().ok_or(CORRUPT)?;
        body = rest.get(u16::from_le_bytes(*len).into()..).ok_or(CORRUPT)?;
    }
    for name_or_comment in [8, 16] {
        if flags & name_or_comment != 0 {
            let end = body.iter().position(|&byte| byte == 0).ok_or(CORRUPT)?;
            body = &body[end + 1..];
        }
    }
    if flags & 2 != 0 {
        body = body.get(2..).ok_or(CORRUPT)?;
    }
    miniz_oxide::inflate::decompress_to_vec_with_limit(body, limit).map_err(|error| match error.status {
        miniz_oxide::inflate::TINFLStatus::HasMoreOutput => Error::TooBig { limit },
        _ => CORRUPT,
    })
}

fn xz(data: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    let mut reader = XzReader::new_mem_limit(data, false, (MAX_WINDOW >> 10) as u32);
    collect(claimed_len(data), limit, |buffer| {
        reader.read(buffer).map_err(|_| Error::CorruptPayload("xz"))
    })
}

fn zstd(data: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    const CORRUPT: Error = Error::CorruptPayload("zstd");
    let mut decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(data, MAX_WINDOW)
        .map_err(|_| CORRUPT)?;
    collect(claimed_len(data), limit, |buffer| {
        decoder.read(buffer).map_err(|_| CORRUPT)
    })
}

/// Read a stream to its end, into memory that grows with what really comes.
fn collect(
    claimed: Option<usize>,
    limit: usize,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Error>,
) -> Result<Vec<u8>, Error> {
    const STEP: usize = 1 << 20;
    let mut out = with_room_for(claimed, limit)?;
    let mut len = 0;
    loop {
        if len == out.len() {
            if len > limit {
                return Err(Error::TooBig { limit });
            }
            out.try_reserve(STEP).map_err(|_| Error::OutOfMemory)?;
            out.resize(len + STEP, 0);
        }
        match read(&mut out[len..])? {
            0 => break,
            count => len += count,
        }
    }
    if len > limit {
        return Err(Error::TooBig { limit });
    }
    out.truncate(len);
    Ok(out)
}

/// LZ4's legacy frame: magic, then blocks of at most 8 MiB unpacked, each behind its packed length. Linux appends the unpacked length as four more
/// bytes, which look like the header of a block that is not there.
fn lz4_legacy(data: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    const CORRUPT: Error = Error::CorruptPayload("lz4");
    const BLOCK: usize = 8 << 20;
    const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
    let mut rest = data.get(4..).ok_or(CORRUPT)?;
    let mut out = with_room_for(claimed_len(data), limit)?;
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        rest = after;
        if *len == MAGIC {
            continue; // Concatenated frames are allowed.
        }
        if after.is_empty() {
            break; // The appended length.
        }
        let block = rest.get(..u32::from_le_bytes(*len) as usize).ok_or(CORRUPT)?;
        rest = &rest[block.len()..];
        let start = out.len();
        out.try_reserve(BLOCK).map_err(|_| Error::OutOfMemory)?;
        out.resize(start + BLOCK, 0);
        let unpacked = lz4_flex::block::decompress_into(block, &mut out[start..]).map_err(|_| CORRUPT)?;
        out.truncate(start + unpacked);
        if out.len() > limit {
            return Err(Error::TooBig { limit });
        }
    }
    Ok(out)
}
