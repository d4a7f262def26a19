// SPDX-License-Identifier: Apache-2.0
//
// Internal to the queue library.
#ifndef CLOISTER_DEVICES_VIRTIO_CHAIN_BUILDER_H_
#define CLOISTER_DEVICES_VIRTIO_CHAIN_BUILDER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/devices/virtio/queue.h"
#include "cloister/memory/shared_view.h"

namespace cloister::devices::virtio {

// A descriptor of either layout (virtio 1.3, 2.7.5 and 2.8.13), copied once.
struct Descriptor {
  static constexpr uint64_t kSize = 16;

  uint64_t address = 0;
  uint32_t length = 0;
  uint16_t flags = 0;
  uint16_t next = 0;  // split
  uint16_t id = 0;    // packed

  bool Has(uint16_t flag) const { return (flags & flag) != 0; }
  static Descriptor FromSplit(const uint8_t* bytes);
  static Descriptor FromPacked(const uint8_t* bytes);
  static Descriptor FromPacked(uint64_t address, uint64_t rest);
};

// Turns descriptors into a Chain that holds leases on its buffers. Serves all
// chains of one queue, so that indirect tables are copied into one buffer.
class ChainBuilder {
 public:
  static constexpr uint16_t kNext = 1;
  static constexpr uint16_t kWrite = 2;
  static constexpr uint16_t kIndirect = 4;

  ChainBuilder(memory::SharedView& view, bool packed, bool indirect)
      : view_(view), packed_(packed), indirect_(indirect) {}

  static Chain Start() { return Chain(); }

  // Whether writable buffers are leased, as they are at first.
  void set_leasing(bool leasing) { leasing_ = leasing; }

  // Adds what a descriptor of the ring stands for: a buffer or a whole table.
  absl::Status Add(const Descriptor& descriptor, Chain& chain);

  // Says what to return the chain as, and how much of the ring it took.
  static void Finish(uint16_t id, uint16_t entries, Chain& chain) {
    chain.id_ = id;
    chain.entries_ = entries;
  }

 private:
  absl::Status AddBuffer(const Descriptor& descriptor, Chain& chain);
  absl::Status AddUnleased(const Descriptor& descriptor, Chain& chain);
  absl::Status AddTable(const Descriptor& descriptor, Chain& chain);
  absl::StatusOr<uint32_t> CopyTable(const Descriptor& descriptor);
  void Reserve(uint32_t count, Chain& chain) const;
  absl::Status AddSplitTable(uint32_t count, Chain& chain);
  absl::Status AddPackedTable(uint32_t count, Chain& chain);

  memory::SharedView& view_;
  const bool packed_;
  const bool indirect_;
  bool leasing_ = true;
  std::vector<uint8_t> table_;
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_CHAIN_BUILDER_H_
