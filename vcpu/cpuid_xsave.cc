// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "cloister/vcpu/cpuid_features.h"

namespace cloister::vcpu {
namespace {

using Leaf = CpuidTable::Leaf;

constexpr uint32_t Bit(int bit) { return uint32_t{1} << bit; }

// A feature flag: a register of a CPUID leaf and its bits.
struct Flags {
  uint32_t function;
  uint32_t index;
  uint32_t Leaf::*reg;
  uint32_t bits;
};

constexpr uint32_t k1EcxXsave = Bit(26);
constexpr uint32_t k1EcxAvx = Bit(28);
constexpr uint32_t k7EbxAvx512f = Bit(16);
constexpr uint32_t k7EcxPku = Bit(3);

// State components (SDM vol. 1 13.1) of XCR0.
constexpr uint32_t kX87AndSse = Bit(0) | Bit(1);
constexpr uint32_t kAvx = Bit(2);
constexpr uint32_t kAvx512 = Bit(5) | Bit(6) | Bit(7);
constexpr uint32_t kPkru = Bit(9);

// The legacy area and the XSAVE header (SDM vol. 1 13.4).
constexpr uint32_t kHeaderEnd = 576;
constexpr uint32_t kAvxOffset = 576;
constexpr uint32_t kAvxSize = 256;
// More than any host's area; keeps offset + size from wrapping.
constexpr uint32_t kMaxAreaSize = 1 << 20;

constexpr Flags kNeedXsave[] = {
    {0x1, 0, &Leaf::ecx, k1EcxXsave | Bit(27)},
    {0x80000008, 0, &Leaf::ebx, Bit(2)},  // XSAVEERPTR
};
// FMA, AVX, F16C | AVX2 | VAES, VPCLMULQDQ | 7.1: SHA512, SM3, SM4, AVX-VNNI,
// AVX-IFMA | AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16 | XOP, FMA4.
constexpr Flags kNeedAvx[] = {
    {0x1, 0, &Leaf::ecx, Bit(12) | k1EcxAvx | Bit(29)},
    {0x7, 0, &Leaf::ebx, Bit(5)},
    {0x7, 0, &Leaf::ecx, Bit(9) | Bit(10)},
    {0x7, 1, &Leaf::eax, Bit(0) | Bit(1) | Bit(2) | Bit(4) | Bit(23)},
    {0x7, 1, &Leaf::edx, Bit(4) | Bit(5) | Bit(10)},
    {0x80000001, 0, &Leaf::ecx, Bit(11) | Bit(16)},
};
// F, DQ, IFMA, PF, ER, CD, BW, VL | VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ |
// 4VNNIW, 4FMAPS, VP2INTERSECT, FP16 | BF16.
constexpr Flags kNeedAvx512[] = {
    {0x7, 0, &Leaf::ebx,
     k7EbxAvx512f | Bit(17) | Bit(21) | Bit(26) | Bit(27) | Bit(28) | Bit(30) |
         Bit(31)},
    {0x7, 0, &Leaf::ecx, Bit(1) | Bit(6) | Bit(11) | Bit(12) | Bit(14)},
    {0x7, 0, &Leaf::edx, Bit(2) | Bit(3) | Bit(8) | Bit(23)},
    {0x7, 1, &Leaf::eax, Bit(5)},
};
constexpr Flags kNeedPkru[] = {{0x7, 0, &Leaf::ecx, k7EcxPku | Bit(4)}};

template <size_t N>
void Hide(const Flags (&flags)[N], CpuidTable& table) {
  for (const Flags& flag : flags) {
    if (Leaf* leaf = table.Find(flag.function, flag.index)) {
      leaf->*flag.reg &= ~flag.bits;
    }
  }
}

// The components that both the host and the remaining features allow.
uint32_t AllowedComponents(const CpuidTable& table) {
  uint32_t host = table.Get(0xd).eax;
  Leaf leaf7 = table.Get(0x7);
  uint32_t allowed = kX87AndSse;
  if ((table.Get(0x1).ecx & k1EcxAvx) != 0 && (host & kAvx) == kAvx) {
    allowed |= kAvx;
    if ((leaf7.ebx & k7EbxAvx512f) != 0 && (host & kAvx512) == kAvx512) {
      allowed |= kAvx512;
    }
  }
  if ((leaf7.ecx & k7EcxPku) != 0 && (host & kPkru) != 0) allowed |= kPkru;
  return allowed;
}

// True if each component of `mask` has a place of its own behind the header.
bool IsConsistent(const CpuidTable& table, uint32_t mask) {
  if ((table.Get(0xd).eax & kX87AndSse) != kX87AndSse) return false;
  uint32_t area = table.Get(0xd).ecx;
  for (int i = 2; i < 32; ++i) {
    if ((mask & Bit(i)) == 0) continue;
    Leaf leaf = table.Get(0xd, i);
    bool supervisor = (leaf.ecx & 1) != 0;
    if (supervisor || leaf.eax == 0 || leaf.eax > kMaxAreaSize ||
        leaf.ebx < kHeaderEnd || leaf.ebx > kMaxAreaSize ||
        leaf.ebx + leaf.eax > area) {
      return false;
    }
    if (i == 2 && (leaf.eax != kAvxSize || leaf.ebx != kAvxOffset)) {
      return false;
    }
    for (int j = 2; j < i; ++j) {
      if ((mask & Bit(j)) == 0) continue;
      Leaf other = table.Get(0xd, j);
      if (leaf.ebx < other.ebx + other.eax && other.ebx < leaf.ebx + leaf.eax) {
        return false;
      }
    }
  }
  return true;
}

uint32_t StandardSize(const CpuidTable& table, uint32_t mask) {
  uint32_t size = kHeaderEnd;
  for (int i = 2; i < 32; ++i) {
    if ((mask & Bit(i)) == 0) continue;
    Leaf leaf = table.Get(0xd, i);
    size = std::max(size, leaf.ebx + leaf.eax);
  }
  return size;
}

uint32_t CompactedSize(const CpuidTable& table, uint32_t mask) {
  uint32_t size = kHeaderEnd;
  for (int i = 2; i < 32; ++i) {
    if ((mask & Bit(i)) == 0) continue;
    Leaf leaf = table.Get(0xd, i);
    if ((leaf.ecx & 2) != 0) size = (size + 63) & ~uint32_t{63};
    size += leaf.eax;
  }
  return size;
}

void HideXsave(CpuidTable& table) {
  Hide(kNeedXsave, table);
  Hide(kNeedAvx, table);
  Hide(kNeedAvx512, table);
  Hide(kNeedPkru, table);
  table.Erase(0xd);
}

// Leaf 0xD for the components of `mask`, without supervisor state. EBX is the
// size once the guest has enabled everything it is offered; KVM replaces it by
// the size for the current XCR0 where it can.
void WriteLeafD(uint32_t mask, CpuidTable& table) {
  constexpr uint32_t kCompacting = Bit(1) | Bit(3);  // XSAVEC, XSAVES.
  constexpr uint32_t kSubFeatures = Bit(0) | Bit(2) | kCompacting;
  CpuidTable host = table;
  uint32_t features = host.Get(0xd, 1).eax & kSubFeatures;
  uint32_t size = StandardSize(host, mask);
  uint32_t compacted =
      (features & kCompacting) != 0 ? CompactedSize(host, mask) : 0;
  table.Erase(0xd);
  table.Set(0xd, 0, {mask, size, size, 0});
  table.Set(0xd, 1, {features, compacted, 0, 0});
  for (int i = 2; i < 32; ++i) {
    if ((mask & Bit(i)) != 0) table.Set(0xd, i, host.Get(0xd, i));
  }
}

}  // namespace

void FitXsave(bool allow, CpuidTable& table) {
  if (!allow || (table.Get(0x1).ecx & k1EcxXsave) == 0) return HideXsave(table);
  uint32_t mask = AllowedComponents(table);
  if (!IsConsistent(table, mask)) return HideXsave(table);
  if ((mask & kAvx) == 0) Hide(kNeedAvx, table);
  if ((mask & kAvx512) == 0) Hide(kNeedAvx512, table);
  if ((mask & kPkru) == 0) Hide(kNeedPkru, table);
  WriteLeafD(mask, table);
}

}  // namespace cloister::vcpu
