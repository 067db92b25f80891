//! Tests of blocks that are copied from one file to another as they are stored.

use super::*;

/// A file in which the entries of `models` follow one another, copied by blocks where that is possible. Returns the
/// number of blocks copied.
fn copy(disk: &SimDisk, target: usize, models: &[Model]) -> usize {
    let cache = BlockCache::new(1 << 20);
    let mut copied = 0;
    let mut files = Vec::new();
    for (number, model) in models.iter().enumerate() {
        let path = format!("/data/source{number}.blk");
        write(disk, &path, target, &[(1, model)]);
        files.push(open(disk, &path, &cache).unwrap());
    }
    let build = |writer: &mut SstWriter<SstOutput>| {
        writer.set_target(target);
        writer.begin_tree(1, true)?;
        for file in &files {
            let mut cursor = file.uncached_cursor(1);
            cursor.first()?;
            while cursor.key().is_some() {
                let is_start = cursor.last_key_from_start().is_some();
                if is_start && cursor.copy_block(writer, |key| Some(prefix(key)))? {
                    copied += 1;
                } else {
                    let (key, value) = pair(&cursor).unwrap();
                    writer.add(&key, Some(prefix(&key)), &value)?;
                    cursor.next()?;
                }
            }
        }
        writer.end_tree()?;
        Ok(Vec::new())
    };
    // Another identity: a block of one file is damage in another, unless it was encoded for it.
    let identity = SstIdentity { seq: 300, ..IDENTITY };
    write_file(disk, Path::new(PATH), identity, build).unwrap();
    assert_eq!(cache.used_bytes(), 0, "a copy leaves no block in the cache");
    copied
}

fn check_copy(disk: &SimDisk, models: &[Model]) {
    let identity = SstIdentity { seq: 300, ..IDENTITY };
    let file = SstFile::open(disk.shared(), PATH.into(), identity, BlockCache::new(1 << 20)).unwrap();
    let whole: Model = models.iter().flatten().map(owned).collect();
    assert_eq!(file.verify().unwrap(), whole.len() as u64);
    check_all(&file, 1, &whole).unwrap();
    assert!(whole.keys().all(|key| file.may_contain(1, prefix(key)).unwrap()));
}

proptest! {
    #[test]
    fn a_file_of_copied_blocks_is_whole(
        sizes in prop::collection::vec(0..300_u32, 1..5),
        target in 40..2000_usize,
    ) {
        let entries = |at: usize, size: u32| -> Model {
            let key = |n: u32| format!("{at} {n:06}").into_bytes();
            (0..size).map(|n| (key(n), n.to_le_bytes().repeat(n as usize % 9))).collect()
        };
        let models: Vec<Model> = sizes.iter().enumerate().map(|(at, size)| entries(at, *size)).collect();
        let disk = disk();
        copy(&disk, target, &models);
        check_copy(&disk, &models);
    }
}

#[test]
fn full_blocks_are_copied_and_small_ones_are_not() {
    let (disk, whole) = (disk(), numbered(2000));
    let first: Model = whole.iter().take(1990).map(owned).collect();
    let last: Model = whole.iter().skip(1990).map(owned).collect();
    let models = [first, last];
    let copied = copy(&disk, 1000, &models);
    assert!(copied > 50, "{copied} blocks");
    check_copy(&disk, &models);
    // A file of one block, which is its root.
    let models = [numbered(25)];
    assert_eq!(copy(&disk, 1000, &models), 1);
    check_copy(&disk, &models);
    let models = [numbered(3)];
    assert_eq!(copy(&disk, 1000, &models), 0);
    check_copy(&disk, &models);
}
