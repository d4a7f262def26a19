// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VCPU_CPUID_TABLE_H_
#define CLOISTER_VCPU_CPUID_TABLE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "cloister/kvm/registers.h"

namespace cloister::vcpu {

enum class CpuVendor { kIntel, kAmd };  // Hygon counts as AMD, others as Intel.

// CPUID leaves by (function, index), for the builders of this folder. Not
// thread-safe.
class CpuidTable {
 public:
  struct Leaf {
    uint32_t eax = 0;
    uint32_t ebx = 0;
    uint32_t ecx = 0;
    uint32_t edx = 0;
  };

  CpuidTable() = default;
  explicit CpuidTable(absl::Span<const kvm::CpuidEntry> entries);

  // The leaf, or null. The pointer lives until the leaf is erased.
  Leaf* Find(uint32_t function, uint32_t index = 0);
  const Leaf* Find(uint32_t function, uint32_t index = 0) const;
  // The leaf, or zeroes, which is what a CPU answers for what it lacks.
  Leaf Get(uint32_t function, uint32_t index = 0) const;
  void Set(uint32_t function, uint32_t index, const Leaf& leaf) {
    leaves_[{function, index}] = leaf;
  }
  // Drops every index of `function`.
  void Erase(uint32_t function);
  // Drops functions that `keep` refuses.
  template <typename Predicate>
  void KeepOnly(Predicate keep) {
    for (auto it = leaves_.begin(); it != leaves_.end();) {
      it = keep(it->first.first) ? std::next(it) : leaves_.erase(it);
    }
  }
  // The highest function in [from, to], or `from`.
  uint32_t HighestFunction(uint32_t from, uint32_t to) const;

  CpuVendor vendor() const;
  // Sorted by function and index; those whose leaf depends on ECX say so.
  std::vector<kvm::CpuidEntry> Entries() const;

 private:
  std::map<std::pair<uint32_t, uint32_t>, Leaf> leaves_;
};

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_CPUID_TABLE_H_
