//! Dead bytes, where trampolines go: what fills the space between two functions of which the first cannot run on, or between
//! two pieces of one, and the zeros behind a segment's last byte up to the end of its page.

/// Dead bytes that are still free, by offset in the file.
#[derive(Debug, Default)]
pub(super) struct Padding {
    /// (start, length), in ascending order, apart from each other.
    pieces: Vec<(u64, u64)>,
}

/// The shortest piece that is of use.
const SHORTEST: u64 = super::code::JUMP_LENGTH;

impl Padding {
    pub fn add(&mut self, start: u64, end: u64) {
        if end.saturating_sub(start) >= SHORTEST {
            let place = self.pieces.partition_point(|piece| piece.0 < start);
            self.pieces.insert(place, (start, end - start));
        }
    }

    /// Takes away what holds `offset`: something leads there after all.
    pub fn remove(&mut self, offset: u64) {
        let behind = self.pieces.partition_point(|piece| piece.0 <= offset);
        if behind > 0 && self.pieces.get(behind - 1).is_some_and(|(start, length)| offset - start < *length) {
            self.pieces.remove(behind - 1);
        }
    }

    /// Takes `length` bytes from the smallest piece that has them and begins within `reach`.
    pub fn take(&mut self, length: u64, reach: std::ops::Range<u64>) -> Option<u64> {
        let first = self.pieces.partition_point(|piece| piece.0 < reach.start);
        let behind = self.pieces.partition_point(|piece| piece.0 < reach.end);
        let fits = |index: &usize| self.pieces.get(*index).is_some_and(|piece| piece.1 >= length);
        let index = (first..behind).filter(fits).min_by_key(|index| self.pieces.get(*index).map(|piece| piece.1))?;
        let (start, left) = self.pieces.get_mut(index)?;
        let taken = *start;
        *start += length;
        *left -= length;
        if *left < SHORTEST {
            self.pieces.remove(index);
        }
        Some(taken)
    }
}
