//! Memory that is handed out from one block and never taken back.
//!
//! A command of ferrun lives for milliseconds and needs some hundred kilobytes;
//! asking the kernel for them page by page costs more than using them. What
//! does not fit into the block, and what is freed of that, is left to the
//! C library.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The length of the block in bytes. It lies in .bss: what is not used costs nothing.
const LENGTH: usize = 512 * 1024;

/// The allocator of the binary.
#[repr(C)]
pub struct Arena {
    /// How much of the block is handed out, from its start. It is changed most often, and
    /// comes first to share a page with what is handed out first.
    used: AtomicUsize,
    block: UnsafeCell<[u8; LENGTH]>,
}

// SAFETY: `block` is only ever handed out in parts, each once, by moving `used` forward
// atomically.
unsafe impl Sync for Arena {}

impl Arena {
    /// An allocator with its block whole.
    pub const fn new() -> Self {
        Self { block: UnsafeCell::new([0; LENGTH]), used: AtomicUsize::new(0) }
    }

    fn start(&self) -> *mut u8 {
        self.block.get().cast()
    }

    /// Where in the block `pointer` lies, if it does.
    fn offset(&self, pointer: *mut u8) -> Option<usize> {
        (pointer as usize).checked_sub(self.start() as usize).filter(|offset| *offset < LENGTH)
    }

    /// Takes a part of the block; null where it does not fit.
    fn take(&self, layout: Layout) -> *mut u8 {
        let block = self.start() as usize;
        let place = |used: usize| {
            // An alignment is a power of two: no need to divide.
            let aligned = (block + used).checked_add(layout.align() - 1)? & !(layout.align() - 1);
            let start = aligned - block;
            let end = start.checked_add(layout.size())?;
            (end <= LENGTH).then_some((start, end))
        };
        let mut used = self.used.load(Relaxed);
        while let Some((start, end)) = place(used) {
            match self.used.compare_exchange_weak(used, end, Relaxed, Relaxed) {
                // SAFETY: start is at most LENGTH, so the pointer stays inside of the block.
                Ok(_) => return unsafe { self.start().add(start) },
                Err(now) => used = now,
            }
        }
        null_mut()
    }

    /// Changes the length of the part that was handed out last, in place.
    fn resize_last(&self, offset: usize, old: usize, new: usize) -> bool {
        let (Some(end), Some(new_end)) = (offset.checked_add(old), offset.checked_add(new)) else {
            return false;
        };
        new_end <= LENGTH && self.used.compare_exchange(end, new_end, Relaxed, Relaxed).is_ok()
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: `take` hands every byte of the block out at most once and aligned as asked; a part
// is only given back or resized where it is the last one. All else is the System allocator's,
// which gets back only what it gave.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let taken = self.take(layout);
        if !taken.is_null() {
            return taken;
        }
        // SAFETY: the caller's layout, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let taken = self.take(layout);
        if !taken.is_null() {
            // SAFETY: `take` gave this many bytes to nobody else. They may have been used
            // before, by a part that was given back.
            unsafe { taken.write_bytes(0, layout.size()) };
            return taken;
        }
        // SAFETY: the caller's layout, handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match self.offset(pointer) {
            Some(offset) => {
                self.resize_last(offset, layout.size(), 0);
            }
            // SAFETY: it is not from the block, so the System allocator gave it.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(offset) = self.offset(pointer) else {
            // SAFETY: it is not from the block, so the System allocator gave it.
            return unsafe { System.realloc(pointer, layout, new_size) };
        };
        if new_size <= layout.size() || self.resize_last(offset, layout.size(), new_size) {
            return pointer;
        }
        // SAFETY: the caller promises that the new size makes a valid layout.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
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

    static ARENA: Arena = Arena::new();

    #[test]
    fn parts_are_aligned_grow_in_place_at_the_end_and_spill_over() {
        let layout = |size| Layout::from_size_align(size, 16).unwrap();
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
            let large = ARENA.alloc(layout(LENGTH));
            assert!(ARENA.offset(large).is_none());
            let larger = ARENA.realloc(large, layout(LENGTH), 2 * LENGTH);
            ARENA.dealloc(larger, layout(2 * LENGTH));
        }
    }
}
