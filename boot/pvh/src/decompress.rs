//! Payloads as Linux's build packs them: the compressed stream, for most formats followed by the unpacked length.
//!
//! They are unpacked in steps, between which the caller may do something else. The length in the image is not believed. Output beyond the caller's
//! limit ends the work. Formats that carry a checksum (gzip, xz, zstd) have it verified; LZ4's legacy frame has none.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lzma_rust2::{Read as _, XzReader};
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use ruzstd::io::Read as _;

use crate::kernel::Error;

/// Window that is enough for what Linux's build uses (zstd -22 --ultra, and xz since 6.12: 128 MiB), but no more. Decoders take memory for as much
/// of it as there is output.
const MAX_WINDOW: u64 = 128 << 20;

/// Bytes that come out of a step, at most. LZ4 unpacks a whole block, but it is that much faster.
const STEP: usize = 128 << 10;
const LZ4_BLOCK: usize = 8 << 20;

const GZIP_CORRUPT: Error = Error::CorruptPayload("gzip");
const LZ4_CORRUPT: Error = Error::CorruptPayload("lz4");
const ZSTD_CORRUPT: Error = Error::CorruptPayload("zstd");

/// A payload that is being unpacked, into memory that grows with what really comes.
pub(crate) struct Unpacking<'a> {
    stream: Stream<'a>,
    /// For what comes out of a step.
    piece: Vec<u8>,
    out: Vec<u8>,
    limit: usize,
}

enum Stream<'a> {
    Gzip(Gzip<'a>),
    Xz(Box<XzReader<&'a [u8]>>),
    /// What is left, from the length of a block on.
    Lz4(&'a [u8]),
    Zstd(Box<StreamingDecoder<&'a [u8], FrameDecoder>>),
}

/// Is there more to come?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    More,
    End,
}

impl<'a> Unpacking<'a> {
    /// Begin to unpack `payload`, to at most `limit` bytes. `None`: not compressed in any known way.
    pub fn new(payload: &'a [u8], limit: usize) -> Option<Result<Self, Error>> {
        let stream = match payload {
            [0x1f, 0x8b, ..] => Gzip::new(payload).map(Stream::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(xz(payload)),
            [0x02, 0x21, 0x4c, 0x18, ..] => Ok(Stream::Lz4(payload)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let decoder = StreamingDecoder::new_with_max_window_size(payload, MAX_WINDOW);
                decoder
                    .map(|decoder| Stream::Zstd(Box::new(decoder)))
                    .map_err(|_| ZSTD_CORRUPT)
            }
            [b'B', b'Z', b'h', ..] => Err(Error::UnsupportedCompression("bzip2")),
            [0x5d, 0, 0, ..] => Err(Error::UnsupportedCompression("lzma")),
            [0x89, b'L', b'Z', b'O', ..] => Err(Error::UnsupportedCompression("lzo")),
            _ => return None,
        };
        Some(stream.and_then(|stream| {
            let most = match stream {
                Stream::Lz4(_) => LZ4_BLOCK,
                _ => STEP,
            };
            Ok(Self {
                stream,
                piece: zeroed(most)?,
                out: with_room_for(claimed_len(payload), limit),
                limit,
            })
        }))
    }

    /// Unpack the next piece; whether there is more to do.
    pub fn step(&mut self) -> Result<bool, Error> {
        let (count, next) = self.stream.unpack(&mut self.piece)?;
        self.out.try_reserve(count).map_err(|_| Error::OutOfMemory)?;
        self.out
            .extend_from_slice(self.piece.get(..count).unwrap_or_default());
        if self.out.len() > self.limit {
            return Err(Error::TooBig { limit: self.limit });
        }
        Ok(next == Next::More)
    }

    /// What has come out.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }
}

impl Stream<'_> {
    /// Unpack the next bytes into `piece`; how many they are. Checksums are right at the end.
    fn unpack(&mut self, piece: &mut [u8]) -> Result<(usize, Next), Error> {
        match self {
            Self::Gzip(gzip) => {
                let (count, next) = fill(piece, |rest| gzip.read(rest))?;
                gzip.sum.update(piece.get(..count).unwrap_or_default());
                match next {
                    Next::End if !gzip.is_whole() => Err(GZIP_CORRUPT),
                    next => Ok((count, next)),
                }
            }
            Self::Xz(reader) => fill(piece, |rest| {
                reader.read(rest).map_err(|error| match error {
                    lzma_rust2::Error::OutOfMemory(_) => Error::OutOfMemory,
                    _ => Error::CorruptPayload("xz"),
                })
            }),
            Self::Lz4(rest) => lz4_block(rest, piece),
            Self::Zstd(reader) => {
                let (count, next) = fill(piece, |rest| reader.read(rest).map_err(|_| ZSTD_CORRUPT))?;
                // The decoder reckons the sum but leaves it to its caller to compare.
                let decoder = &reader.decoder;
                match decoder.get_checksum_from_data() {
                    Some(sum) if next == Next::End && decoder.get_calculated_checksum() != Some(sum) => {
                        Err(ZSTD_CORRUPT)
                    }
                    _ => Ok((count, next)),
                }
            }
        }
    }
}

/// Read until `piece` is full or nothing more comes.
fn fill(
    piece: &mut [u8],
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Error>,
) -> Result<(usize, Next), Error> {
    let mut len = 0;
    while len < piece.len() {
        match read(&mut piece[len..])? {
            0 => return Ok((len, Next::End)),
            count => len += count,
        }
    }
    Ok((len, Next::More))
}

/// The unpacked length that Linux's build appends. Only a hint: it saves growing the output, which costs time and twice the memory.
fn claimed_len(data: &[u8]) -> Option<usize> {
    data.last_chunk().map(|len| u32::from_le_bytes(*len) as usize)
}

fn zeroed(len: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Error::OutOfMemory)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

fn with_room_for(claimed: Option<usize>, limit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(len) = claimed.filter(|&len| len <= limit) {
        // Where a false claim finds no room, the real length may still.
        let _ = out.try_reserve_exact(len);
    }
    out
}

/// RFC 1952.
struct Gzip<'a> {
    rest: &'a [u8],
    state: Box<InflateState>,
    /// Of what has come out.
    sum: crc32fast::Hasher,
    ended: bool,
}

impl<'a> Gzip<'a> {
    fn new(data: &'a [u8]) -> Result<Self, Error> {
        Ok(Self {
            rest: gzip_body(data).ok_or(GZIP_CORRUPT)?,
            state: InflateState::new_boxed(DataFormat::Raw),
            sum: crc32fast::Hasher::new(),
            ended: false,
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if self.ended {
            return Ok(0);
        }
        let step = inflate(&mut self.state, self.rest, buffer, MZFlush::None);
        self.rest = self.rest.get(step.bytes_consumed..).ok_or(GZIP_CORRUPT)?;
        self.ended = step.status.map_err(|_| GZIP_CORRUPT)? == MZStatus::StreamEnd;
        Ok(step.bytes_written)
    }

    /// Has the stream ended, with the right sum behind it?
    fn is_whole(&self) -> bool {
        let sum = self.rest.first_chunk().map(|sum| u32::from_le_bytes(*sum));
        self.ended && sum == Some(self.sum.clone().finalize())
    }
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

fn xz(data: &[u8]) -> Stream<'_> {
    /// What the decoder reckons for itself beside the window.
    const OVERHEAD: u64 = 1 << 20;
    let memory = ((MAX_WINDOW + OVERHEAD) >> 10) as u32;
    Stream::Xz(Box::new(XzReader::new_mem_limit(data, false, memory)))
}

/// Unpack the first block of what is left of LZ4's legacy frame: magic, then blocks of at most 8 MiB unpacked, each behind its packed length. Linux
/// appends the unpacked length as four more bytes, which look like the header of a block that is not there.
fn lz4_block(rest: &mut &[u8], piece: &mut [u8]) -> Result<(usize, Next), Error> {
    const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        *rest = after;
        if *len == MAGIC {
            continue; // Concatenated frames are allowed.
        }
        if after.is_empty() {
            break; // The appended length.
        }
        let (block, after) = after
            .split_at_checked(u32::from_le_bytes(*len) as usize)
            .ok_or(LZ4_CORRUPT)?;
        *rest = after;
        let count = lz4_flex::block::decompress_into(block, piece).map_err(|_| LZ4_CORRUPT)?;
        return Ok((count, Next::More));
    }
    Ok((0, Next::End))
}
