//! A copy by walk and write, as backup and restore together do it.

use std::path::Path;

use filetree::ProblemKind;
use filetree::walk::{self, Segment, Walk};
use filetree::write::{Options, Report, Writer};

/// Copies a tree; also tells which paths may not be read.
pub(crate) fn copy(from: &Path, to: &Path, options: Options) -> (Report, Vec<Vec<u8>>) {
    let mut writer = Writer::new(to, options).unwrap();
    let mut buffer = vec![0; 100_000];
    let mut unread = Vec::new();
    for found in Walk::new(&[from.to_path_buf()], walk::Options::default()).unwrap() {
        let found = match found {
            Ok(found) => found,
            Err(problem) => panic!("{problem}"),
        };
        let content = found.is_file().then(|| found.open());
        if let Some(Err(problem)) = &content {
            assert_eq!(problem.kind, ProblemKind::Unreadable, "{problem}");
            unread.push(found.entry.path);
            continue;
        }
        writer.begin(&found.entry).unwrap();
        if let Some(Ok(mut content)) = content {
            while let Some(segment) = content.segment().unwrap() {
                match segment {
                    Segment::Hole { length } => writer.hole(length).unwrap(),
                    Segment::Data { .. } => loop {
                        match content.read(&mut buffer).unwrap() {
                            0 => break,
                            read => writer.data(&buffer[..read]).unwrap(),
                        }
                    },
                }
            }
            assert_eq!(content.finish(), None);
        }
        writer.end().unwrap();
    }
    (writer.finish().unwrap(), unread)
}
