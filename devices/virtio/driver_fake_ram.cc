// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/driver_fake_ram.h"

#include <cstdlib>
#include <utility>

#include "cloister/base/bytes.h"

namespace cloister::devices::virtio {

using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;
using memory::PageState;

FakeRam::FakeRam(uint64_t size, uint64_t start)
    : range_(*GuestRange::CreatePageAligned(GuestAddress(start), size)),
      next_(start) {
  auto mapping = memory::HostMapping::CreateMemfd("fake-ram", size, {});
  Require(mapping.ok());
  auto region =
      memory::MemoryRegion::Create(GuestAddress(start), *std::move(mapping));
  Require(region.ok());
  std::vector<memory::MemoryRegion> regions;
  regions.push_back(*std::move(region));
  auto memory = memory::GuestMemory::Create(std::move(regions));
  Require(memory.ok());
  memory_ = std::make_unique<memory::GuestMemory>(*std::move(memory));
  Require(states_.Set(range_, PageState::kShared).ok());
  auto view = memory::SharedView::Create(memory_.get(), &states_);
  Require(view.ok());
  view_ = *std::move(view);
}

void FakeRam::Require(bool condition) {
  if (!condition) std::abort();
}

void FakeRam::SetState(GuestAddress start, uint64_t size, PageState state) {
  const uint64_t first = base::AlignDown(start.value(), kPageSize);
  const uint64_t end = base::AlignUp(start.value() + size, kPageSize);
  auto pages = GuestRange::CreatePageAligned(GuestAddress(first), end - first);
  Require(pages.ok() && states_.Set(*pages, state).ok());
}

GuestAddress FakeRam::Alloc(uint64_t size, uint64_t alignment) {
  const uint64_t start = base::AlignUp(next_, alignment);
  const uint64_t offset = start - range_.start().value();
  Require(offset <= range_.size() && size <= range_.size() - offset);
  next_ = start + size;
  return GuestAddress(start);
}

GuestAddress FakeRam::AllocPages(uint64_t pages) {
  GuestAddress start = Alloc(pages * kPageSize, kPageSize);
  return start;
}

GuestAddress FakeRam::AllocString(absl::string_view bytes) {
  GuestAddress start = Alloc(bytes.size());
  Write(start, bytes);
  return start;
}

std::vector<uint8_t> FakeRam::Bytes(GuestAddress from, uint64_t size) const {
  std::vector<uint8_t> bytes(size);
  Require(memory_->Read(from, absl::MakeSpan(bytes)).ok());
  return bytes;
}

std::string FakeRam::String(GuestAddress from, uint64_t size) const {
  std::vector<uint8_t> bytes = Bytes(from, size);
  return std::string(bytes.begin(), bytes.end());
}

void FakeRam::Write(GuestAddress to, absl::Span<const uint8_t> bytes) {
  Require(memory_->Write(to, bytes).ok());
}

void FakeRam::Write(GuestAddress to, absl::string_view bytes) {
  Write(to, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()),
                                bytes.size()));
}

}  // namespace cloister::devices::virtio
