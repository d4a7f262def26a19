// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_PAGE_BACKEND_H_
#define CLOISTER_MEMORY_PAGE_BACKEND_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::memory {

// The two places that can hold a page. With in-place conversion they are one.
enum class BackingSide { kShared, kPrivate };

// What a conversion does to the bytes in a page.
enum class ConversionContent {
  kLost,       // two backings: the new side starts as zeroes
  kPreserved,  // one backing that changes hands: pages that are pinned refuse
};

// How far a step got: the first `bytes_done` bytes of the range were changed
// and the rest were not. When `status` is OK, `bytes_done` is the whole range.
struct PageProgress {
  absl::Status status;
  uint64_t bytes_done = 0;
};

// Changes what backs guest pages. The conversion broker decides when; a
// backend only knows how. Each confidential backend implements it, and tests
// use a fake.
//
// Ranges are page-aligned RAM, in guest-physical addresses without any C-bit.
// Calls for disjoint ranges may run at the same time on different threads;
// calls for overlapping ranges never do. Nothing here may call the broker.
class PageBackend {
 public:
  virtual ~PageBackend() = default;

  // For messages: "sw-protected".
  virtual absl::string_view name() const = 0;

  // kPreserved also means one backing: a conversion then neither reserves nor
  // frees (only a reset frees, to discard), and a page under a lease is never
  // made private. Constant.
  virtual ConversionContent content() const = 0;

  // Bytes that one step should cover, a power of two of at least one page. A
  // step is all or nothing for the guest, so this also bounds how long one
  // change holds up others. Constant.
  virtual uint64_t preferred_chunk() const = 0;

  // Makes the guest's accesses to `range` go to the private or the shared
  // side; `to` is kPrivate or kShared. Idempotent. Unavailable means that a
  // page is busy for now (pinned, with in-place conversion) and that calling
  // again for the rest of the range may succeed.
  virtual PageProgress SetAttributes(const GuestRange& range, PageState to) = 0;

  // Claims for the shared side of `range` what the backend rations itself (a
  // file system with a size limit, a pool of huge pages), so that touching it
  // later cannot fail for want of that; ResourceExhausted if there is too
  // little. Where only the host's memory is the limit there is nothing to
  // claim: a backend backs pages when they are touched, and returns OK. Keeps
  // what the pages hold.
  virtual absl::Status ReserveShared(const GuestRange& range) = 0;

  // Gives the memory of one side of `range` back to the host; a later touch
  // finds zeroes. Freeing what is not backed is fine.
  virtual absl::Status FreeShared(const GuestRange& range) = 0;
  virtual absl::Status FreePrivate(const GuestRange& range) = 0;

  // Calls `visit` for each maximal page-aligned part of `range` that memory
  // backs on `side`, in ascending order.
  virtual absl::Status ForEachBacked(
      BackingSide side, const GuestRange& range,
      absl::FunctionRef<void(const GuestRange&)> visit) = 0;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_PAGE_BACKEND_H_
