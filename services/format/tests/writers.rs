//! What a writer accepts, a reader reads back: nothing may be stored that cannot be restored.

use format::Digest;
use format::entry::{Entry, Extent, Kind, MAX_PATH, Timestamp, Xattr};
use format::extents::length_of;
use format::leaf::{Content, LeafBuilder, LeafReader};
use proptest::prelude::*;

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(
        prop_oneof![Just(b'a'), Just(b'/'), Just(b'.'), any::<u8>()],
        0..most,
    )
}

/// Short ones, and some at the bound and past it.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let long = |length| std::iter::repeat_n(b'p', length).collect::<Vec<u8>>();
    prop_oneof![
        8 => "[a-c]{1,3}(/[a-c]{1,3}){0,3}".prop_map(String::into_bytes),
        3 => bytes(12),
        1 => (MAX_PATH - 1..MAX_PATH + 2).prop_map(long),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::File),
        1 => Just(Kind::Directory),
        1 => path().prop_map(Kind::Symlink),
        1 => path().prop_map(Kind::HardLink),
        1 => any::<(u32, u32)>().prop_map(|(a, b)| Kind::CharDevice(a, b)),
        1 => any::<(u32, u32)>().prop_map(|(a, b)| Kind::BlockDevice(a, b)),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ]
}

fn extent() -> impl Strategy<Value = Extent> {
    let length =
        prop_oneof![4 => 1u32..100_000, 1 => Just(0), 1 => (4u32 << 20) - 1..(4 << 20) + 2];
    prop_oneof![
        3 => (0u8..5, length).prop_map(|(d, length)| Extent::Data { digest: Digest([d; 32]), length }),
        1 => prop_oneof![Just(0), 1u64..1 << 50, Just(u64::MAX)].prop_map(|length| Extent::Hole { length }),
    ]
}

fn wild_entry() -> impl Strategy<Value = (Entry, Content)> {
    let names = (
        bytes(300),
        bytes(8),
        prop_oneof![8 => 0u32..0o10000, 1 => any::<u32>()],
    );
    let xattr = (bytes(260), bytes(40)).prop_map(|(name, value)| Xattr { name, value });
    let content = (
        proptest::collection::vec(extent(), 0..5),
        prop_oneof![8 => Just(0u64), 1 => any::<u64>()],
        proptest::option::weighted(0.2, any::<u8>()),
    );
    let xattrs = proptest::collection::vec(xattr, 0..3);
    let time = (
        any::<i64>(),
        prop_oneof![8 => 0..1_000_000_000u32, 1 => any::<u32>()],
    );
    (
        path(),
        kind(),
        names,
        xattrs,
        content,
        time,
        any::<(u32, u32)>(),
    )
        .prop_map(
            |(
                path,
                kind,
                (user, group, mode),
                mut xattrs,
                (content, off, list),
                time,
                (uid, gid),
            )| {
                xattrs.sort();
                let sum = content.iter().map(length_of).fold(0, u64::wrapping_add);
                let size = if kind == Kind::File {
                    sum.wrapping_add(off)
                } else {
                    off
                };
                let (seconds, nanos) = time;
                let modified = Timestamp { seconds, nanos };
                let place = list.map_or(Content::Inline, |d| Content::List(Digest([d; 32])));
                let entry = Entry {
                    path,
                    kind,
                    mode,
                    uid,
                    gid,
                    user,
                    group,
                    modified,
                    xattrs,
                    size,
                    content,
                };
                (entry, place)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn entries_that_are_accepted_come_back(entries in proptest::collection::vec(wild_entry(), 1..6)) {
        let mut builder = LeafBuilder::default();
        let mut accepted = Vec::new();
        for (mut entry, content) in entries {
            if builder.push(&entry, &content).is_ok() {
                if content != Content::Inline {
                    entry.content.clear();
                }
                accepted.push((entry, content));
            }
        }
        let (content, refs) = builder.finish();
        let back: Result<Vec<_>, _> = LeafReader::new(&content, &refs).unwrap().collect();
        prop_assert_eq!(back, Ok(accepted));
    }
}
