// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/bus.h"

#include <algorithm>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices {
namespace {

std::string RangeText(uint64_t start, uint64_t last) {
  return absl::StrCat("[0x", absl::Hex(start), ", 0x", absl::Hex(last), "]");
}

// Fibonacci hashing: thread ids are addresses whose low bits are equal.
size_t ThreadSlot(size_t slots) {
  uint64_t id = std::hash<std::thread::id>{}(std::this_thread::get_id());
  return static_cast<size_t>((id * 0x9e3779b97f4a7c15ull) >> 32) % slots;
}

}  // namespace

Bus::Bus(Space space, base::Logger& log) : space_(space), log_(log) {
  base::MutexLock lock(&writer_);
  Publish({});
}

absl::Status Bus::CheckRange(uint64_t start, uint64_t size) const {
  const uint64_t limit = space_ == Space::kPio ? 0xffff : UINT64_MAX;
  if (size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("bus range at 0x", absl::Hex(start), " is empty"));
  }
  if (start > limit || size - 1 > limit - start) {
    return absl::InvalidArgumentError(absl::StrCat(
        "bus range at 0x", absl::Hex(start), ", size 0x", absl::Hex(size),
        ", leaves the ", space_ == Space::kPio ? "port" : "address", " space"));
  }
  return absl::OkStatus();
}

absl::Status Bus::AddTo(Table& table, Entry entry) const {
  auto next = std::upper_bound(
      table.begin(), table.end(), entry.start,
      [](uint64_t start, const Entry& other) { return start < other.start; });
  const Entry* clash = nullptr;
  if (next != table.end() && next->start <= entry.last) clash = &*next;
  if (next != table.begin() && std::prev(next)->last >= entry.start) {
    clash = &*std::prev(next);
  }
  if (clash != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat(
        entry.device->name(), " at ", RangeText(entry.start, entry.last),
        " overlaps ", clash->device->name(), " at ",
        RangeText(clash->start, clash->last)));
  }
  table.insert(next, std::move(entry));
  return absl::OkStatus();
}

void Bus::Publish(Table table) {
  for (Stripe& stripe : stripes_) {
    // A copy for each stripe, so that the stripes share no reference count.
    auto copy = std::make_shared<const Table>(table);
    {
      base::MutexLock lock(&stripe.mutex);
      stripe.table.swap(copy);
    }
    // What was there goes here, without the lock.
  }
  table_.swap(table);
}

absl::Status Bus::Insert(uint64_t start, uint64_t size,
                         std::shared_ptr<BusDevice> device) {
  if (device == nullptr) {
    return absl::InvalidArgumentError("bus insert: no device");
  }
  RETURN_IF_ERROR(CheckRange(start, size));
  base::MutexLock lock(&writer_);
  Table table = table_;
  RETURN_IF_ERROR(
      AddTo(table, Entry{start, start + (size - 1), std::move(device)}));
  Publish(std::move(table));
  return absl::OkStatus();
}

absl::Status Bus::Remove(uint64_t start) {
  // Ends after the lock: destroying a device may take locks of its own, under
  // which it calls the bus elsewhere.
  std::shared_ptr<BusDevice> removed;
  base::MutexLock lock(&writer_);
  Table table = table_;
  auto it = std::find_if(table.begin(), table.end(), [&](const Entry& entry) {
    return entry.start == start;
  });
  if (it == table.end()) {
    return absl::NotFoundError(
        absl::StrCat("no bus range starts at 0x", absl::Hex(start)));
  }
  removed = it->device;
  table.erase(it);
  Publish(std::move(table));
  return absl::OkStatus();
}

absl::Status Bus::Move(uint64_t start, uint64_t new_start) {
  base::MutexLock lock(&writer_);
  Table table = table_;
  auto it = std::find_if(table.begin(), table.end(), [&](const Entry& entry) {
    return entry.start == start;
  });
  if (it == table.end()) {
    return absl::NotFoundError(
        absl::StrCat("no bus range starts at 0x", absl::Hex(start)));
  }
  const uint64_t extent = it->last - it->start;
  // A range of 2^64 bytes can only move onto itself.
  if (extent == UINT64_MAX) {
    return new_start == 0 ? absl::OkStatus() : CheckRange(new_start, extent);
  }
  RETURN_IF_ERROR(CheckRange(new_start, extent + 1));
  std::shared_ptr<BusDevice> device = std::move(it->device);
  table.erase(it);
  RETURN_IF_ERROR(
      AddTo(table, Entry{new_start, new_start + extent, std::move(device)}));
  Publish(std::move(table));
  return absl::OkStatus();
}

std::shared_ptr<const Bus::Table> Bus::Current() {
  Stripe& stripe = stripes_[ThreadSlot(kStripes)];
  base::MutexLock lock(&stripe.mutex);
  return stripe.table;
}

const Bus::Entry* Bus::Find(const Table& table, uint64_t address, size_t size) {
  auto next = std::upper_bound(
      table.begin(), table.end(), address,
      [](uint64_t at, const Entry& entry) { return at < entry.start; });
  if (next == table.begin()) return nullptr;
  const Entry& entry = *std::prev(next);
  if (address > entry.last || size - 1 > entry.last - address) return nullptr;
  return &entry;
}

bool Bus::Read(uint64_t address, absl::Span<uint8_t> data) {
  if (data.empty()) return false;
  std::shared_ptr<const Table> table = Current();
  if (const Entry* entry = Find(*table, address, data.size())) {
    entry->device->Read(address - entry->start, data);
    return true;
  }
  std::fill(data.begin(), data.end(), uint8_t{0xff});
  unknown_reads_.fetch_add(1, std::memory_order_relaxed);
  ReportUnknown("read of", address, data.size());
  return false;
}

bool Bus::Write(uint64_t address, absl::Span<const uint8_t> data) {
  if (data.empty()) return false;
  std::shared_ptr<const Table> table = Current();
  if (const Entry* entry = Find(*table, address, data.size())) {
    entry->device->Write(address - entry->start, data);
    return true;
  }
  unknown_writes_.fetch_add(1, std::memory_order_relaxed);
  ReportUnknown("write to", address, data.size());
  return false;
}

void Bus::ReportUnknown(absl::string_view access, uint64_t address,
                        size_t size) {
  bool last_one;
  {
    base::MutexLock lock(&logged_mutex_);
    if (logged_.size() >= kMaxLogged) return;
    if (!logged_.insert(address).second) return;
    last_one = logged_.size() == kMaxLogged;
  }
  log_.Debug(absl::StrCat(access, " unknown ",
                          space_ == Space::kPio ? "port" : "address", " 0x",
                          absl::Hex(address), ", ", size, " bytes",
                          last_one ? "; further ones are only counted" : ""));
}

Bus::Counters Bus::counters() const {
  Counters counters;
  counters.unknown_reads = unknown_reads_.load(std::memory_order_relaxed);
  counters.unknown_writes = unknown_writes_.load(std::memory_order_relaxed);
  return counters;
}

}  // namespace cloister::devices
