//! Memory that is handed out from blocks and never taken back.
//!
//! A command of ferrun lives for milliseconds and needs some hundred kilobytes;
//! asking the kernel for them page by page costs more than using them. The first block lies
//! in the program. Further ones, for a command that walks over hundreds of containers, come
//! from the C library, and so does each part that is large, alone.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::{self, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// The length of the first block in bytes. It lies in .bss: what is not used costs nothing.
const FIRST: usize = 512 * 1024;
/// The length of each further block.
const FURTHER: usize = 256 * 1024;
/// From which length on a part is large.
const LARGE: usize = 64 * 1024;

/// The allocator of the binary.
#[repr(C)]
pub struct Arena {
    /// The block that is handed out from; null: the first one. What is changed comes first, to
    /// share a page with what is handed out first.
    current: AtomicPtr<Head>,
    /// Whether all is left to the C library.
    is_closed: AtomicBool,
    first: Block<FIRST>,
}

/// The beginning of a block.
#[repr(C)]
struct Head {
    /// Where the next part may begin, counted from the end of the head.
    used: AtomicUsize,
    /// The length of what follows the head; 0 stands for that of the first block, all of whose
    /// bytes are zero at the start: what is not would lie in the file.
    room: usize,
}

#[repr(C)]
struct Block<const LENGTH: usize> {
    head: Head,
    bytes: UnsafeCell<[u8; LENGTH]>,
}

/// The layout of a further block, which asks for the alignment of its head.
const BLOCK: Layout = Layout::new::<Block<FURTHER>>();

impl Head {
    const fn of(room: usize) -> Self {
        Self { used: AtomicUsize::new(0), room }
    }

    fn room(&self) -> usize {
        if self.room == 0 { FIRST } else { self.room }
    }
}

// SAFETY: the bytes are only ever handed out in parts, each once, by moving `used` forward
// atomically.
unsafe impl Sync for Arena {}

impl Arena {
    /// An allocator with its first block whole.
    pub const fn new() -> Self {
        let first = Block { head: Head::of(0), bytes: UnsafeCell::new([0; FIRST]) };
        Self { current: AtomicPtr::new(null_mut()), is_closed: AtomicBool::new(false), first }
    }

    /// Leaves all to the C library, for a program that may live long, until it is
    /// [opened](Self::open). Where something was handed out already, it stays open.
    pub fn close(&self) {
        let is_untouched = self.current.load(Ordering::Acquire).is_null()
            && self.first.head.used.load(Ordering::Acquire) == 0;
        self.is_closed.store(is_untouched, Ordering::Release);
    }

    /// Hands out from its blocks from now on. What it has handed out before is not given back.
    pub fn open(&self) {
        self.is_closed.store(false, Ordering::Release);
    }

    /// Whether a part of this layout is one of a block. One that the C library gave, when it was
    /// larger or the arena closed, may be taken for such a one: it is not given back then.
    fn is_of_a_block(&self, layout: Layout) -> bool {
        layout.size() < LARGE && layout.align() < LARGE && !self.is_closed.load(Ordering::Acquire)
    }

    /// The block that is handed out from.
    fn current(&self) -> *const Head {
        let current = self.current.load(Ordering::Acquire);
        if current.is_null() { ptr::from_ref(&self.first).cast() } else { current }
    }

    /// Takes a part; null where there is no memory.
    fn take(&self, layout: Layout) -> *mut u8 {
        loop {
            let block = self.current();
            let taken = take_of(block, layout);
            if !taken.is_null() || !self.go_on_from(block) {
                return taken;
            }
        }
    }

    /// Puts a further block in the place of the full one. Returns false where there is no memory.
    #[cold]
    fn go_on_from(&self, full: *const Head) -> bool {
        // SAFETY: the layout is not empty.
        let new: *mut Head = unsafe { System.alloc(BLOCK) }.cast();
        if new.is_null() {
            return false;
        }
        // SAFETY: a block is as long as its head at least, aligned as it asks, and nobody else's.
        unsafe { new.write(Head::of(FURTHER)) };
        let is_first = ptr::eq(full, ptr::from_ref(&self.first).cast());
        let full = if is_first { null_mut() } else { full.cast_mut() };
        let put = self.current.compare_exchange(full, new, Ordering::AcqRel, Ordering::Relaxed);
        if put.is_err() {
            // Another thread was quicker.
            // SAFETY: it was given with this layout and is known to nobody.
            unsafe { System.dealloc(new.cast(), BLOCK) };
        }
        true
    }

    /// Changes the length of the part that was handed out last, in place.
    fn resize_last(&self, part: *mut u8, old: usize, new: usize) -> bool {
        let block = self.current();
        // SAFETY: heads are never given back.
        let head = unsafe { &*block };
        let start = block as usize + size_of::<Head>();
        let Some(offset) = (part as usize).checked_sub(start) else { return false };
        let (Some(end), Some(new_end)) = (offset.checked_add(old), offset.checked_add(new)) else {
            return false;
        };
        let relaxed = Ordering::Relaxed;
        new_end <= head.room() && head.used.compare_exchange(end, new_end, relaxed, relaxed).is_ok()
    }
}

/// Takes a part of a block; null where it does not fit.
fn take_of(block: *const Head, layout: Layout) -> *mut u8 {
    // SAFETY: heads are never given back.
    let head = unsafe { &*block };
    let beginning = block as usize + size_of::<Head>();
    let place = |used: usize| {
        // An alignment is a power of two: no need to divide.
        let aligned = (beginning + used).checked_add(layout.align() - 1)? & !(layout.align() - 1);
        let start = aligned - beginning;
        let end = start.checked_add(layout.size())?;
        (end <= head.room()).then_some((start, end))
    };
    let mut used = head.used.load(Ordering::Relaxed);
    while let Some((start, end)) = place(used) {
        match head.used.compare_exchange_weak(used, end, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                let block = block.cast::<u8>().cast_mut();
                // SAFETY: head and part lie in the block, which is as long as both.
                return unsafe { block.add(size_of::<Head>() + start) };
            }
            Err(now) => used = now,
        }
    }
    null_mut()
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: `take` hands every byte of a block out at most once and aligned as asked; a part is
// only given back or resized where it is the last one of its block. All else is the System
// allocator's, which gets back only what it gave: a part of a block is always small.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.is_of_a_block(layout) {
            return self.take(layout);
        }
        // SAFETY: the caller's layout, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !self.is_of_a_block(layout) {
            // SAFETY: the caller's layout, handed on.
            return unsafe { System.alloc_zeroed(layout) };
        }
        let taken = self.take(layout);
        if !taken.is_null() {
            // SAFETY: `take` gave this many bytes to nobody else. They may have been used
            // before, by a part that was given back.
            unsafe { taken.write_bytes(0, layout.size()) };
        }
        taken
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.is_of_a_block(layout) {
            self.resize_last(pointer, layout.size(), 0);
        } else {
            // SAFETY: no part of a block is large, so the System allocator gave it.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !self.is_of_a_block(layout) {
            // SAFETY: no part of a block is large, so the System allocator gave it.
            return unsafe { System.realloc(pointer, layout, new_size) };
        }
        // SAFETY: the caller promises that the new size makes a valid layout.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if new_size <= layout.size()
            || (self.is_of_a_block(new_layout)
                && self.resize_last(pointer, layout.size(), new_size))
        {
            return pointer;
        }
        // SAFETY: as above.
        let moved = unsafe { self.alloc(new_layout) };
        if !moved.is_null() {
            // SAFETY: both are at least as long as the old size, and do not overlap: `moved`
            // is new.
            unsafe { moved.copy_from_nonoverlapping(pointer, layout.size()) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 16).unwrap()
    }

    #[test]
    fn parts_are_aligned_grow_in_place_at_the_end_and_leave_the_block_when_they_get_large() {
        static ARENA: Arena = Arena::new();
        // SAFETY: every pointer is used within its size and given back with its layout.
        unsafe {
            let first = ARENA.alloc(layout(3));
            let second = ARENA.alloc(layout(100));
            assert!([first, second].iter().all(|part| (*part as usize).is_multiple_of(16)));
            second.write_bytes(7, 100);
            assert_eq!(ARENA.realloc(second, layout(100), 200), second);
            let third = ARENA.realloc(first, layout(3), 50);
            assert_ne!(third, first);
            ARENA.dealloc(third, layout(50));
            let zeroed = ARENA.alloc_zeroed(layout(50));
            assert_eq!((zeroed, *zeroed.add(49)), (third, 0));
            let large = ARENA.realloc(zeroed, layout(50), LARGE);
            assert_ne!((large, *large), (zeroed, 7));
            let larger = ARENA.realloc(large, layout(LARGE), 2 * LARGE);
            // The C library's still, and not given back: it looks like a part of the block.
            let small = ARENA.realloc(larger, layout(2 * LARGE), 100);
            let grown = ARENA.realloc(small, layout(100), 200);
            ARENA.dealloc(grown, layout(200));
            assert_eq!(ARENA.alloc(layout(1)), grown);
        }
    }

    #[test]
    fn a_closed_one_gives_back_what_it_gave() {
        static ARENA: Arena = Arena::new();
        ARENA.close();
        // SAFETY: every pointer is used within its size and given back with its layout.
        unsafe {
            let before = ARENA.realloc(ARENA.alloc(layout(10)), layout(10), 100);
            before.write_bytes(7, 100);
            ARENA.dealloc(ARENA.alloc_zeroed(layout(100)), layout(100));
            assert_eq!(ARENA.first.head.used.load(Ordering::Relaxed), 0);
            ARENA.open();
            let after = ARENA.alloc(layout(16));
            let grown = ARENA.realloc(before, layout(100), 200);
            assert_eq!(*grown.add(99), 7);
            assert!(ptr::from_ref(&ARENA).cast() < after && after < grown);
            ARENA.dealloc(grown, layout(200));
            // What was handed out since could not be told from what the C library gives.
            ARENA.close();
            assert!(ARENA.is_of_a_block(layout(1)));
        }
    }

    #[test]
    fn a_full_block_is_followed_by_others_and_no_part_is_given_twice() {
        static ARENA: Arena = Arena::new();
        let aligned = Layout::from_size_align(24, 4096).unwrap();
        let parts = (0..2000).map(|number| match number % 100 {
            0 => aligned,
            1 => layout(LARGE - 1),
            _ => layout(1000),
        });
        // SAFETY: every pointer is used within its size.
        let mut parts: Vec<(usize, usize)> = unsafe {
            let begun = |layout: Layout| {
                let part = ARENA.alloc_zeroed(layout);
                assert!((part as usize).is_multiple_of(layout.align()));
                part.write_bytes(7, layout.size());
                (part as usize, part as usize + layout.size())
            };
            parts.map(begun).collect()
        };
        parts.sort_unstable();
        assert!(parts.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }
}
