// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/driver_fake_ram.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cstdlib>
#include <utility>

#include "cloister/base/bytes.h"
#include "cloister/base/unique_fd.h"

namespace cloister::devices::virtio {

using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;
using memory::PageState;

FakeRam::FakeRam(uint64_t size, uint64_t start)
    : range_(*GuestRange::CreatePageAligned(GuestAddress(start), size)),
      next_(start) {
  Require(start >= kPageSize);  // for the guard below
  auto file =
      memory::HostMapping::CreateMemfd("fake-ram", size + 2 * kPageSize, {});
  Require(file.ok());
  base::UniqueFd fd(::fcntl(file->fd(), F_DUPFD_CLOEXEC, 0));
  auto inner = memory::HostMapping::MapFile(std::move(fd), kPageSize, size, {});
  Require(inner.ok());
  guest_ = OneRegion(start, *std::move(inner));
  memory_ = OneRegion(start - kPageSize, *std::move(file));
  for (uint64_t guard : {start - kPageSize, start + size}) {
    Protect(*GuestRange::Create(GuestAddress(guard), kPageSize), PROT_NONE);
  }
  Require(states_.Set(range_, PageState::kShared).ok());
  auto view = memory::SharedView::Create(memory_.get(), &states_);
  Require(view.ok());
  view_ = *std::move(view);
}

std::unique_ptr<memory::GuestMemory> FakeRam::OneRegion(
    uint64_t start, memory::HostMapping mapping) {
  auto region =
      memory::MemoryRegion::Create(GuestAddress(start), std::move(mapping));
  Require(region.ok());
  std::vector<memory::MemoryRegion> regions;
  regions.push_back(*std::move(region));
  auto memory = memory::GuestMemory::Create(std::move(regions));
  Require(memory.ok());
  return std::make_unique<memory::GuestMemory>(*std::move(memory));
}

void FakeRam::Require(bool condition) {
  if (!condition) std::abort();
}

void FakeRam::Protect(const GuestRange& pages, int protection) {
  const memory::MemoryRegion& region = memory_->regions()[0];
  const uint64_t offset =
      pages.start().value() - region.range().start().value();
  const uint64_t host = region.mapping().host_address().ForKvmSlot() + offset;
  Require(::mprotect(reinterpret_cast<void*>(host), pages.size(), protection) ==
          0);
}

void FakeRam::SetState(GuestAddress start, uint64_t size, PageState state) {
  const uint64_t first = base::AlignDown(start.value(), kPageSize);
  const uint64_t end = base::AlignUp(start.value() + size, kPageSize);
  auto pages = GuestRange::CreatePageAligned(GuestAddress(first), end - first);
  Require(pages.ok());
  if (state == PageState::kShared) Protect(*pages, PROT_READ | PROT_WRITE);
  Require(states_.Set(*pages, state).ok());
  // New leases fail from here on; so without an old one nobody is at them.
  if (protects_ && state != PageState::kShared && LeasedBytes() == 0) {
    Protect(*pages, PROT_NONE);
  }
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
  Require(guest_->Read(from, absl::MakeSpan(bytes)).ok());
  return bytes;
}

std::string FakeRam::String(GuestAddress from, uint64_t size) const {
  std::vector<uint8_t> bytes = Bytes(from, size);
  return std::string(bytes.begin(), bytes.end());
}

void FakeRam::Write(GuestAddress to, absl::Span<const uint8_t> bytes) {
  Require(guest_->Write(to, bytes).ok());
}

void FakeRam::Write(GuestAddress to, absl::string_view bytes) {
  Write(to, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()),
                                bytes.size()));
}

}  // namespace cloister::devices::virtio
