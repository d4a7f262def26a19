// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/cpuid_table.h"

#include <algorithm>

namespace cloister::vcpu {
namespace {

// "Auth" and "Hygo", the first letters in leaf 0 EBX.
constexpr uint32_t kAmdEbx = 0x68747541;
constexpr uint32_t kHygonEbx = 0x6f677948;

// Functions whose answer depends on ECX, of those that a guest gets to see.
bool DependsOnIndex(uint32_t function) {
  constexpr uint32_t kIndexed[] = {0x4, 0x7, 0xb, 0xd, 0x1f, 0x8000001d};
  return std::find(std::begin(kIndexed), std::end(kIndexed), function) !=
         std::end(kIndexed);
}

}  // namespace

CpuidTable::CpuidTable(absl::Span<const kvm::CpuidEntry> entries) {
  for (const kvm::CpuidEntry& entry : entries) {
    leaves_.insert({{entry.function, entry.index},
                    {entry.eax, entry.ebx, entry.ecx, entry.edx}});
  }
}

CpuidTable::Leaf* CpuidTable::Find(uint32_t function, uint32_t index) {
  auto it = leaves_.find({function, index});
  return it == leaves_.end() ? nullptr : &it->second;
}

const CpuidTable::Leaf* CpuidTable::Find(uint32_t function,
                                         uint32_t index) const {
  auto it = leaves_.find({function, index});
  return it == leaves_.end() ? nullptr : &it->second;
}

CpuidTable::Leaf CpuidTable::Get(uint32_t function, uint32_t index) const {
  const Leaf* leaf = Find(function, index);
  return leaf == nullptr ? Leaf{} : *leaf;
}

void CpuidTable::Erase(uint32_t function) {
  leaves_.erase(leaves_.lower_bound({function, 0}),
                leaves_.upper_bound({function, UINT32_MAX}));
}

uint32_t CpuidTable::HighestFunction(uint32_t from, uint32_t to) const {
  auto it = leaves_.upper_bound({to, UINT32_MAX});
  if (it == leaves_.begin()) return from;
  return std::max(from, std::prev(it)->first.first);
}

CpuVendor CpuidTable::vendor() const {
  uint32_t ebx = Get(0).ebx;
  return ebx == kAmdEbx || ebx == kHygonEbx ? CpuVendor::kAmd
                                            : CpuVendor::kIntel;
}

std::vector<kvm::CpuidEntry> CpuidTable::Entries() const {
  std::vector<kvm::CpuidEntry> entries;
  entries.reserve(leaves_.size());
  for (const auto& [key, leaf] : leaves_) {
    kvm::CpuidEntry entry;
    entry.function = key.first;
    entry.index = key.second;
    if (DependsOnIndex(key.first)) {
      entry.flags = kvm::CpuidEntry::kSignificantIndex;
    }
    entry.eax = leaf.eax;
    entry.ebx = leaf.ebx;
    entry.ecx = leaf.ecx;
    entry.edx = leaf.edx;
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace cloister::vcpu
