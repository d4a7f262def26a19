// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_H_
#define CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/types/span.h"
#include "cloister/devices/virtio/driver_fake_ram.h"
#include "cloister/devices/virtio/queue.h"
#include "cloister/memory/guest_address.h"

namespace cloister::devices::virtio {

// The driver's side of one virtqueue, for tests and fuzzers: builds rings in a
// FakeRam and works them as a guest does, without any view. Follows the rules;
// the Write... methods break them. One thread at a time; the device may run on
// another.
class DriverFake {
 public:
  struct Options {
    uint16_t size = 16;
    bool packed = false;
    bool indirect = false;
    bool event_idx = false;
  };
  struct Buffer {
    memory::GuestAddress address;
    uint32_t length = 0;
    bool writable = false;
  };
  struct Used {
    uint16_t id = 0;
    uint32_t written = 0;
  };

  // Descriptor flags.
  static constexpr uint16_t kNext = 1;
  static constexpr uint16_t kWrite = 2;
  static constexpr uint16_t kIndirect = 4;

  // `ram` must outlive the fake.
  DriverFake(FakeRam& ram, const Options& options);

  // Where the rings are; hand it to Queue::Create or to a transport.
  const QueueConfig& config() const { return config_; }
  uint16_t size() const { return config_.size; }

  // Makes a request available and returns its id; nullopt if the ring has no
  // room. `indirect`: through a table of its own. Kicking is the caller's job.
  std::optional<uint16_t> Offer(absl::Span<const Buffer> buffers,
                                bool indirect = false);
  // Takes the next request that the device used.
  std::optional<Used> PopUsed();
  bool HasUsed() const;

  // Whether the device wants a kick for what was offered since the last call.
  bool NeedsKick();
  // Asks for no interrupts, or for one again; true if something was used in the
  // meantime. With event_idx: for one once `after` more requests are used.
  void DisableInterrupts();
  bool EnableInterrupts(uint16_t after = 0);

  uint16_t free_descriptors() const { return free_; }

  // --- what no driver should do ---

  // A descriptor of the table or the packed ring, as it stands.
  void WriteDescriptor(uint16_t index, uint64_t address, uint32_t length,
                       uint16_t flags, uint16_t next_or_id);
  // A descriptor elsewhere: an entry of an indirect table of this layout.
  void WriteTableEntry(memory::GuestAddress table, uint32_t index,
                       uint64_t address, uint32_t length, uint16_t flags,
                       uint16_t next_or_id);
  // Split: makes whatever chain starts at `head` available.
  void OfferHead(uint16_t head);
  // Split: the avail index as such.
  void WriteAvailIndex(uint16_t index);
  // Packed: AVAIL and USED flags that make an entry of this lap available.
  uint16_t AvailableFlags() const;
  // Packed: the entry that the device looks at next, if all was popped.
  uint16_t next_entry() const { return next_; }

 private:
  struct Request {
    uint16_t descriptors = 0;
    std::vector<uint16_t> chain;  // split: to be freed
    memory::GuestAddress buffer;  // of the first entry: perhaps a table
  };

  std::optional<uint16_t> OfferSplit(absl::Span<const Buffer> ring);
  std::optional<uint16_t> OfferPacked(absl::Span<const Buffer> ring);
  Buffer BuildTable(absl::Span<const Buffer> buffers);
  std::optional<Used> PopUsedSplit();
  std::optional<Used> PopUsedPacked();
  void Finish(const Request& request);
  void Advance(uint16_t count, uint16_t& index, bool& wrap) const;
  memory::GuestAddress At(memory::GuestAddress base, uint64_t offset) const {
    return *base.Plus(offset);
  }

  FakeRam& ram_;
  QueueConfig config_;
  uint16_t free_ = 0;                 // descriptors
  std::vector<uint16_t> free_ids_;    // split: descriptors; packed: buffer ids
  std::map<uint16_t, Request> busy_;  // by id
  std::set<memory::GuestAddress> tables_;
  std::vector<memory::GuestAddress> free_tables_;
  bool table_ = false;  // the ring entry being offered is a table

  // Split: free-running. Packed: places in the ring, with wrap counters.
  uint16_t next_ = 0;
  bool next_wrap_ = true;
  uint16_t used_ = 0;
  bool used_wrap_ = true;
  uint16_t offered_ = 0;  // ring entries since NeedsKick looked last
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_H_
