//! Payloads as Linux's build packs them: the compressed stream, for most formats followed by the unpacked length.
//!
//! The length in the image is not believed. Output beyond the caller's limit ends the work. Formats that carry a checksum (gzip, xz, zstd) have it
//! verified; LZ4's legacy frame has none.

use alloc::vec::Vec;

use lzma_rust2::{Read as _, XzReader};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};
use ruzstd::io::Read as _;

use crate::kernel::Error;

/// Window that is enough for what Linux's build uses (zstd -22 --ultra, and xz since 6.12: 128 MiB), but no more. Decoders take memory for as much
/// of it as there is output.
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

fn with_room_for(claimed: Option<usize>, limit: usize) -> Vec<u8> {
    const SLACK: usize = 8 << 20;
    let mut out = Vec::new();
    if let Some(len) = claimed.filter(|&len| len <= limit) {
        // Where a false claim finds no room, the real length may still.
        let _ = out.try_reserve_exact(len.saturating_add(SLACK));
    }
    out
}

/// RFC 1952.
fn gzip(data: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    const CORRUPT: Error = Error::CorruptPayload("gzip");
    let mut rest = gzip_body(data).ok_or(CORRUPT)?;
    let mut state = InflateState::new_boxed(DataFormat::Raw);
    let mut ended = false;
    let out = collect(claimed_len(data), limit, |buffer| {
        if ended {
            return Ok(0);
        }
        let step = inflate(&mut state, rest, buffer, MZFlush::None);
        rest = rest.get(step.bytes_consumed..).ok_or(CORRUPT)?;
        ended = step.status.map_err(|_| CORRUPT)? == MZStatus::StreamEnd;
        Ok(step.bytes_written)
    })?;
    let sum = rest.first_chunk().map(|sum| u32::from_le_bytes(*sum));
    (ended && sum == Some(crc32fast::hash(&out)))
        .then_some(out)
        .ok_or(CORRUPT)
}

/// What follows a gzip header (RFC 1952, 2.3).
fn gzip_body(data: &[u8]) -> Option<&[u8]> {
    const DEFLATE: u8 = 8;
    const HEADER_CRC: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    let (&[_, _, method, flags, ..], mut body) = data.split_first_chunk::<10>()?;
    (method == DEFLATE).then_some(())?;
    if flags & EXTRA != 0 {
        let (len, rest) = body.split_first_chunk::<2>()?;
        body = rest.get(u16::from_le_bytes(*len).into()..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = body.iter().position(|&byte| byte == 0)?;
            body = body.get(end + 1..)?;
        }
    }
    if flags & HEADER_CRC != 0 {
        body = body.get(2..)?;
    }
    Some(body)
}

fn xz(data: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    /// What the decoder reckons for itself beside the window.
    const OVERHEAD: u64 = 1 << 20;
    let mut reader = XzReader::new_mem_limit(data, false, ((MAX_WINDOW + OVERHEAD) >> 10) as u32);
    collect(claimed_len(data), limit, |buffer| {
        reader.read(buffer).map_err(|error| match error {
            lzma_rust2::Error::OutOfMemory(_) => Error::OutOfMemory,
            _ => Error::CorruptPayload("xz"),
        })
    })
}

fn zstd(data: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    const CORRUPT: Error = Error::CorruptPayload("zstd");
    let mut decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(data, MAX_WINDOW)
        .map_err(|_| CORRUPT)?;
    let out = collect(claimed_len(data), limit, |buffer| {
        decoder.read(buffer).map_err(|_| CORRUPT)
    })?;
    // The decoder reckons the sum but leaves it to its caller to compare.
    match decoder.decoder.get_checksum_from_data() {
        Some(sum) if decoder.decoder.get_calculated_checksum() != Some(sum) => Err(CORRUPT),
        _ => Ok(out),
    }
}

/// Read a stream to its end, into memory that grows with what really comes.
fn collect(
    claimed: Option<usize>,
    limit: usize,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Error>,
) -> Result<Vec<u8>, Error> {
    const STEP: usize = 1 << 20;
    let mut out = with_room_for(claimed, limit);
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
    let mut out = with_room_for(claimed_len(data), limit);
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
