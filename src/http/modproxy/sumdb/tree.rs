//! Merkle trees as RFC 6962 and `golang.org/x/mod/sumdb/tlog` have them, in tiles of height 8.
//!
//! A tile holds the hashes of up to 256 neighbours: those of level 0 are records, those of level `l + 1`
//! are the hashes of whole tiles of level `l`. A tree of `size` records has, at each level, whole tiles
//! and at most one that is not. The hashes in these last ones make up the tree's own.

use sha2::{Digest, Sha256};

use crate::text;

/// A SHA-256.
pub(super) type Hash = [u8; 32];

/// Bytes of a hash.
pub(super) const HASH: usize = 32;
/// Hashes in a whole tile.
pub(super) const WIDTH: u64 = 256;

/// The hash of a record.
pub(super) fn leaf(record: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(record).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The hash of a whole subtree, from those of its leaves, a power of two of them.
pub(super) fn fold(hashes: &[u8]) -> Hash {
    match hashes.split_at(hashes.len() / 2) {
        (left, right) if left.len() >= HASH => node(&fold(left), &fold(right)),
        _ => hashes.try_into().expect("a power of two of hashes"),
    }
}

/// The levels at which a tree has a tile that is not whole: the level, the tile's place, its width.
pub(super) fn frontier(size: u64) -> impl Iterator<Item = (u8, u64, u64)> {
    let at = move |level: u8| (level, size >> (8 * level) >> 8, (size >> (8 * level)) % WIDTH);
    (0..8).map(at).filter(|(_, _, width)| *width > 0)
}

/// The hash of a tree, from the tiles of its frontier in the same order.
pub(super) fn root<'a>(tiles: impl DoubleEndedIterator<Item = &'a [u8]>) -> Hash {
    let mut whole = Vec::new();
    for mut rest in tiles.rev() {
        while !rest.is_empty() {
            let (subtree, after) = rest.split_at(HASH << (rest.len() / HASH).ilog2());
            whole.push(fold(subtree));
            rest = after;
        }
    }
    whole.into_iter().rev().reduce(|smaller, larger| node(&larger, &smaller)).unwrap_or(Sha256::digest([]).into())
}

/// Where a tile is found, below a database's URL.
pub(super) fn path(level: u8, n: u64, width: u64) -> String {
    let mut place = format!("{:03}", n % 1000);
    let mut more = n / 1000;
    while more > 0 {
        place = format!("x{:03}/{place}", more % 1000);
        more /= 1000;
    }
    let part = if width == WIDTH { String::new() } else { format!(".p/{width}") };
    format!("tile/8/{level}/{place}{part}")
}

/// What such a path is of: level, place, width.
pub(super) fn place(tile: &str) -> Option<(u8, u64, u64)> {
    // tile/8/L/K[.p/W], K in groups of three digits, x before all but the last
    let (level, place) = tile.strip_prefix("tile/8/")?.split_once('/')?;
    let (place, width) = match place.split_once(".p/") {
        Some((place, width)) => (place, number(width, WIDTH - 1).filter(|w| *w > 0)?),
        None => (place, WIDTH),
    };
    let digits: String = place.split('/').map(|group| group.trim_start_matches('x')).collect();
    let n = digits.parse::<u64>().ok().filter(|n| *n < 1 << 48)?;
    let level = number(level, 7)? as u8;
    (path(level, n, width) == tile).then_some((level, n, width))
}

/// A decimal number without leading zeros, at most `most`.
pub(super) fn number(digits: &str, most: u64) -> Option<u64> {
    let plain = digits == "0" || !digits.starts_with('0');
    text::number(digits).filter(|n| plain && *n <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in RFC 6962.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => Sha256::digest([]).into(),
            1 => leaves[0],
            n => {
                let split = (n as u64).next_power_of_two() as usize / 2;
                node(&defined(&leaves[..split]), &defined(&leaves[split..]))
            }
        }
    }

    #[test]
    fn tiles_make_up_the_tree_of_any_size() {
        let leaves: Vec<Hash> = (0..70_000u32).map(|n| leaf(&n.to_be_bytes())).collect();
        let mut levels = vec![leaves.clone()];
        while levels.last().unwrap().len() >= 256 {
            let below = levels.last().unwrap();
            levels.push(below.chunks_exact(256).map(|tile| fold(&tile.concat())).collect());
        }
        for size in [0, 1, 2, 3, 5, 255, 256, 257, 300, 511, 512, 1000, 65_535, 65_536, 65_537, 66_000, 70_000] {
            let tiles: Vec<Vec<u8>> = frontier(size)
                .map(|(level, n, width)| levels[level as usize][(n * 256) as usize..][..width as usize].concat())
                .collect();
            assert_eq!(root(tiles.iter().map(Vec::as_slice)), defined(&leaves[..size as usize]), "{size}");
        }
    }

    #[test]
    fn places() {
        assert_eq!(path(0, 1_234_067, 256), "tile/8/0/x001/x234/067");
        assert_eq!(path(1, 5, 7), "tile/8/1/005.p/7");
        assert_eq!(
            (place("tile/8/0/x001/x234/067"), place("tile/8/1/005.p/7")),
            (Some((0, 1_234_067, 256)), Some((1, 5, 7)))
        );
        for bad in [
            "", "latest", "tile/8/0", "tile/0/0/000", "tile/31/0/000", "tile/8/64/000", "tile/8/0/0000",
            "tile/8/0/x00/000", "tile/8/0/x000", "tile/8/0/000/x", "tile/8/0/000.p", "tile/8/0/000.p/0",
            "tile/8/0/000.p/256", "tile/08/0/000", "tile/8/0/..", "tile/8/0/x000/001", "tile/8/0/-01", "tile/4/0/000",
            "tile/8/data/000",
        ] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
