// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/cpuid.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/vcpu/cpuid_test_tables.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::cloister::base::StatusIs;
using ::testing::HasSubstr;

using Entries = std::vector<kvm::CpuidEntry>;

// What a CPU with these entries answers; zeroes for a leaf that is not there.
kvm::CpuidEntry Ask(const Entries& entries, uint32_t function,
                    uint32_t index = 0) {
  for (const kvm::CpuidEntry& entry : entries) {
    if (entry.function == function && entry.index == index) return entry;
  }
  return {};
}

bool Has(const Entries& entries, uint32_t function) {
  return std::any_of(
      entries.begin(), entries.end(),
      [=](const kvm::CpuidEntry& entry) { return entry.function == function; });
}

Entries Build(const Entries& host, const CpuidPolicy& policy = {},
              const CpuTopology& topology = {}, uint32_t index = 0) {
  absl::StatusOr<Entries> entries = BuildCpuid(host, policy, topology, index);
  EXPECT_OK(entries);
  return entries.ok() ? *std::move(entries) : Entries{};
}

bool BitOf(uint32_t reg, int bit) { return (reg >> bit & 1) != 0; }
uint32_t Field(uint32_t reg, int high, int low) {
  return reg >> low & ((uint64_t{1} << (high - low + 1)) - 1);
}

Entries& At(Entries& entries, uint32_t function, uint32_t index,
            const std::function<void(kvm::CpuidEntry&)>& edit) {
  for (kvm::CpuidEntry& entry : entries) {
    if (entry.function == function && entry.index == index) edit(entry);
  }
  return entries;
}

// --- leaf 0xD, computed again from the entries a guest gets ---

struct XsaveSizes {
  uint32_t standard = 576;
  uint32_t compacted = 576;
};

XsaveSizes SizesOf(const Entries& guest, uint64_t components) {
  XsaveSizes sizes;
  for (int i = 2; i < 63; ++i) {
    if ((components >> i & 1) == 0) continue;
    kvm::CpuidEntry leaf = Ask(guest, 0xd, i);
    EXPECT_GT(leaf.eax, 0u) << "component " << i << " has no size";
    sizes.standard = std::max(sizes.standard, leaf.ebx + leaf.eax);
    if (BitOf(leaf.ecx, 1)) sizes.compacted = (sizes.compacted + 63) / 64 * 64;
    sizes.compacted += leaf.eax;
  }
  return sizes;
}

// What Linux checks before it trusts XSAVE, and warns "XSAVE consistency
// problem" about; and that each component has its feature and the reverse.
void ExpectConsistentXsave(const Entries& guest) {
  kvm::CpuidEntry leaf1 = Ask(guest, 1);
  kvm::CpuidEntry leaf7 = Ask(guest, 7);
  bool xsave = BitOf(leaf1.ecx, 26);
  uint64_t components = Ask(guest, 0xd).eax | uint64_t{Ask(guest, 0xd).edx}
                                                  << 32;
  EXPECT_EQ(BitOf(components, 2), BitOf(leaf1.ecx, 28)) << "AVX";
  EXPECT_EQ(Field(components, 7, 5) == 7, BitOf(leaf7.ebx, 16)) << "AVX-512";
  EXPECT_TRUE(Field(components, 7, 5) == 7 || Field(components, 7, 5) == 0);
  EXPECT_EQ(BitOf(components, 9), BitOf(leaf7.ecx, 3)) << "PKU";
  EXPECT_EQ(Field(components, 4, 3), 0u) << "MPX";
  EXPECT_FALSE(BitOf(leaf7.ebx, 14)) << "MPX";
  if (!BitOf(leaf1.ecx, 28)) {
    EXPECT_FALSE(BitOf(leaf7.ebx, 5)) << "AVX2";
    EXPECT_FALSE(BitOf(leaf1.ecx, 12)) << "FMA";
    EXPECT_FALSE(BitOf(leaf1.ecx, 29)) << "F16C";
  }
  if (!xsave) {
    EXPECT_FALSE(Has(guest, 0xd));
    return;
  }
  EXPECT_EQ(Field(components, 1, 0), 3u);
  XsaveSizes sizes = SizesOf(guest, components);
  EXPECT_EQ(Ask(guest, 0xd).ebx, sizes.standard);
  EXPECT_EQ(Ask(guest, 0xd).ecx, sizes.standard);
  kvm::CpuidEntry sub = Ask(guest, 0xd, 1);
  bool compacts = BitOf(sub.eax, 1) || BitOf(sub.eax, 3);
  EXPECT_EQ(sub.ebx, compacts ? sizes.compacted : 0);
  EXPECT_EQ(sub.ecx | sub.edx, 0u) << "supervisor state";
  for (const kvm::CpuidEntry& entry : guest) {
    if (entry.function != 0xd || entry.index < 2) continue;
    EXPECT_TRUE(components >> entry.index & 1) << "stray " << entry.index;
  }
}

TEST(CpuidXsaveTest, ServersAreConsistent) {
  Entries amd = Build(AmdServer());
  ExpectConsistentXsave(amd);
  EXPECT_EQ(Ask(amd, 0xd).eax, 0x207u);
  EXPECT_EQ(Ask(amd, 0xd).ecx, 0x988u);
  // 576 + 256 (AVX) + 8 (PKRU), which needs no alignment.
  EXPECT_EQ(Ask(amd, 0xd, 1).ebx, 840u);

  Entries intel = Build(IntelServer());
  ExpectConsistentXsave(intel);
  EXPECT_EQ(Ask(intel, 0xd).eax, 0x2e7u);
  EXPECT_EQ(Ask(intel, 0xd).ecx, 0xa88u);
  EXPECT_EQ(Ask(intel, 0xd, 1).ebx, 576u + 256 + 64 + 512 + 1024 + 8);
}

TEST(CpuidXsaveTest, LeafWithoutTheFeatureGoes) {
  Entries guest = Build(SoftwareKvm());
  ExpectConsistentXsave(guest);
  EXPECT_FALSE(Has(guest, 0xd));
}

TEST(CpuidXsaveTest, PolicyHidesEverythingThatNeedsIt) {
  for (const Entries& host : {AmdServer(), IntelServer()}) {
    Entries guest = Build(host, {.xsave = false});
    ExpectConsistentXsave(guest);
    EXPECT_FALSE(BitOf(Ask(guest, 1).ecx, 26));
    EXPECT_FALSE(BitOf(Ask(guest, 1).ecx, 28));
    EXPECT_FALSE(BitOf(Ask(guest, 7).ecx, 9)) << "VAES";
    EXPECT_FALSE(BitOf(Ask(guest, 7).ebx, 16)) << "AVX512F";
    // AES, SSE4.2 and RDRAND need no XSAVE.
    EXPECT_TRUE(BitOf(Ask(guest, 1).ecx, 25));
    EXPECT_TRUE(BitOf(Ask(guest, 1).ecx, 20));
    EXPECT_TRUE(BitOf(Ask(guest, 1).ecx, 30));
  }
}

TEST(CpuidXsaveTest, HiddenFeatureTakesItsComponentAlong) {
  Entries host = IntelServer();
  At(host, 7, 0, [](kvm::CpuidEntry& e) { e.ebx &= ~(1u << 16); });
  Entries guest = Build(host);
  ExpectConsistentXsave(guest);
  EXPECT_EQ(Ask(guest, 0xd).eax, 0x207u);
  // PKRU keeps its place at the end; compaction closes the gap.
  EXPECT_EQ(Ask(guest, 0xd).ecx, 0xa88u);
  EXPECT_EQ(Ask(guest, 0xd, 1).ebx, 840u);
  EXPECT_FALSE(BitOf(Ask(guest, 7).ebx, 30)) << "AVX512BW without F";
}

TEST(CpuidXsaveTest, MissingComponentTakesItsFeatureAlong) {
  Entries host = IntelServer();
  At(host, 0xd, 0, [](kvm::CpuidEntry& e) { e.eax &= ~(1u << 6); });
  Entries guest = Build(host);
  ExpectConsistentXsave(guest);
  EXPECT_FALSE(BitOf(Ask(guest, 7).ebx, 16));
  EXPECT_TRUE(BitOf(Ask(guest, 1).ecx, 28));
}

TEST(CpuidXsaveTest, ContradictionHidesAll) {
  const std::vector<std::function<void(kvm::CpuidEntry&)>> lies = {
      [](kvm::CpuidEntry& e) { e.eax = 0; },           // No size.
      [](kvm::CpuidEntry& e) { e.ebx = 100; },         // In the legacy area.
      [](kvm::CpuidEntry& e) { e.ebx = 0x240; },       // Over AVX.
      [](kvm::CpuidEntry& e) { e.ebx = 0xa88; },       // Beyond the area.
      [](kvm::CpuidEntry& e) { e.ebx = 0xffffffff; },  // Wrapping.
      [](kvm::CpuidEntry& e) { e.eax = 0xffffffff; },
      [](kvm::CpuidEntry& e) { e.ecx |= 1; },  // A supervisor's.
      [](kvm::CpuidEntry& e) { e.index = 40; },
  };
  for (const auto& lie : lies) {
    Entries host = IntelServer();
    At(host, 0xd, 9, lie);
    Entries guest = Build(host);
    ExpectConsistentXsave(guest);
    EXPECT_FALSE(BitOf(Ask(guest, 1).ecx, 26));
  }
  Entries host = AmdServer();
  At(host, 0xd, 2, [](kvm::CpuidEntry& e) { e.ebx = 0x280; });
  EXPECT_FALSE(BitOf(Ask(Build(host), 1).ecx, 26)) << "AVX has one place";
}

TEST(CpuidXsaveTest, WithoutCompactionNoCompactedSize) {
  Entries host = AmdServer();
  At(host, 0xd, 1, [](kvm::CpuidEntry& e) { e.eax = 0x5; });
  Entries guest = Build(host);
  ExpectConsistentXsave(guest);
  EXPECT_EQ(Ask(guest, 0xd, 1).ebx, 0u);
}

// --- features ---

TEST(CpuidTest, UnsafeFeaturesAreHidden) {
  Entries amd = Build(AmdServer());
  EXPECT_FALSE(BitOf(Ask(amd, 1).ecx, 3)) << "MONITOR";
  EXPECT_FALSE(BitOf(Ask(amd, 0x80000001).ecx, 2)) << "SVM";
  EXPECT_FALSE(BitOf(Ask(amd, 0x80000001).ecx, 10)) << "IBS";
  EXPECT_FALSE(BitOf(Ask(amd, 0x80000001).ecx, 29)) << "MWAITX";
  EXPECT_FALSE(BitOf(Ask(amd, 0x80000001).ecx, 23)) << "performance counters";
  EXPECT_FALSE(BitOf(Ask(amd, 0x80000008).ebx, 3)) << "INVLPGB";
  for (uint32_t leaf :
       {0x5u, 0x10u, 0x8000000au, 0x8000001bu, 0x8000001fu, 0x80000022u}) {
    EXPECT_FALSE(Has(amd, leaf)) << std::hex << leaf;
  }

  Entries intel = Build(IntelServer());
  EXPECT_FALSE(BitOf(Ask(intel, 1).ecx, 5)) << "VMX";
  EXPECT_FALSE(BitOf(Ask(intel, 1).ecx, 15)) << "PDCM";
  EXPECT_FALSE(BitOf(Ask(intel, 7).ebx, 2)) << "SGX";
  EXPECT_FALSE(BitOf(Ask(intel, 7).ebx, 25)) << "PT";
  EXPECT_FALSE(BitOf(Ask(intel, 7).edx, 20)) << "IBT";
  EXPECT_FALSE(BitOf(Ask(intel, 7).ecx, 7)) << "shadow stacks";
  EXPECT_EQ(Ask(intel, 6).eax, 4u) << "only ARAT";
  EXPECT_EQ(Ask(intel, 6).ecx, 0u) << "APERF/MPERF";
  for (uint32_t leaf : {0xau, 0x12u, 0x14u}) EXPECT_FALSE(Has(intel, leaf));
}

TEST(CpuidTest, UsefulFeaturesStay) {
  for (const Entries& host : {AmdServer(), IntelServer()}) {
    Entries guest = Build(host);
    EXPECT_TRUE(BitOf(Ask(guest, 1).edx, 0)) << "x87";
    EXPECT_TRUE(BitOf(Ask(guest, 1).ecx, 30)) << "RDRAND";
    EXPECT_TRUE(BitOf(Ask(guest, 1).ecx, 31)) << "hypervisor";
    EXPECT_TRUE(BitOf(Ask(guest, 1).ecx, 21)) << "x2APIC";
    EXPECT_TRUE(BitOf(Ask(guest, 7).ebx, 5)) << "AVX2";
    EXPECT_TRUE(BitOf(Ask(guest, 0x80000001).edx, 29)) << "long mode";
    EXPECT_TRUE(BitOf(Ask(guest, 0x80000007).edx, 8)) << "invariant TSC";
    EXPECT_EQ(Ask(guest, 0x80000008).eax, Ask(host, 0x80000008).eax);
    EXPECT_EQ(Ask(guest, 0x80000002).eax, Ask(host, 0x80000002).eax);
    EXPECT_EQ(Field(Ask(guest, 1).ebx, 15, 8), 8u) << "CLFLUSH size";
    EXPECT_FALSE(BitOf(Ask(guest, 1).ecx, 27)) << "OSXSAVE is KVM's to set";
  }
  // The host that lacks it does not get it.
  Entries host = AmdServer();
  At(host, 1, 0, [](kvm::CpuidEntry& e) { e.ecx &= ~(1u << 30); });
  EXPECT_FALSE(BitOf(Ask(Build(host), 1).ecx, 30));
}

TEST(CpuidTest, PolicyShowsWhatItNames) {
  Entries amd =
      Build(AmdServer(),
            {.nested_virtualization = true, .pmu = true, .tsc_deadline = true});
  EXPECT_TRUE(BitOf(Ask(amd, 0x80000001).ecx, 2));
  EXPECT_TRUE(BitOf(Ask(amd, 0x80000001).ecx, 23));
  EXPECT_TRUE(BitOf(Ask(amd, 1).ecx, 24)) << "TSC deadline";
  EXPECT_TRUE(Has(amd, 0x8000000a));
  EXPECT_TRUE(Has(amd, 0x80000022));
  Entries intel =
      Build(IntelServer(), {.nested_virtualization = true, .pmu = true});
  EXPECT_TRUE(BitOf(Ask(intel, 1).ecx, 5));
  EXPECT_TRUE(Has(intel, 0xa));
  EXPECT_FALSE(BitOf(Ask(intel, 1).ecx, 24));
  EXPECT_FALSE(BitOf(Ask(Build(AmdServer(), {.x2apic = false}), 1).ecx, 21));
  // Nothing that the host does not have.
  EXPECT_FALSE(BitOf(
      Ask(Build(SoftwareKvm(), {.nested_virtualization = true}), 0x80000001)
          .ecx,
      2));
}

TEST(CpuidTest, MaximaAreTheHighestLeaves) {
  for (const Entries& host : {AmdServer(), IntelServer(), SoftwareKvm()}) {
    for (bool encrypted : {false, true}) {
      CpuidPolicy policy;
      if (encrypted) policy.c_bit = MaxPhysicalAddressBits(host) - 1;
      Entries guest = Build(host, policy);
      uint32_t basic = Ask(guest, 0).eax;
      uint32_t extended = Ask(guest, 0x80000000).eax;
      EXPECT_TRUE(Has(guest, basic));
      EXPECT_TRUE(Has(guest, extended));
      EXPECT_GE(basic, 0xbu);
      EXPECT_GE(extended, encrypted ? 0x8000001fu : 0x80000008u);
      for (const kvm::CpuidEntry& entry : guest) {
        EXPECT_TRUE(entry.function <= basic || entry.function >= 0x40000000);
        EXPECT_LE(entry.function, extended);
      }
      EXPECT_EQ(Ask(guest, 0).ebx, Ask(host, 0).ebx);
    }
  }
}

TEST(CpuidTest, EntriesAreSortedUniqueAndMarked) {
  Entries guest = Build(IntelServer(), {}, {.count = 4});
  std::set<std::pair<uint32_t, uint32_t>> seen;
  std::map<uint32_t, int> per_function;
  for (const kvm::CpuidEntry& entry : guest) {
    EXPECT_TRUE(seen.insert({entry.function, entry.index}).second);
    EXPECT_EQ(*seen.rbegin(), std::make_pair(entry.function, entry.index));
    ++per_function[entry.function];
  }
  for (const kvm::CpuidEntry& entry : guest) {
    if (per_function[entry.function] > 1) {
      EXPECT_EQ(entry.flags, kvm::CpuidEntry::kSignificantIndex)
          << std::hex << entry.function;
    }
  }
  EXPECT_LE(guest.size(), 80u) << "what KVM has always accepted";
}

// --- hypervisor leaves ---

TEST(CpuidTest, HypervisorLeaves) {
  Entries guest = Build(AmdServer());
  kvm::CpuidEntry signature = Ask(guest, 0x40000000);
  EXPECT_EQ(signature.eax, 0x40000001u);
  char name[13] = {};
  memcpy(name, &signature.ebx, 4);
  memcpy(name + 4, &signature.ecx, 4);
  memcpy(name + 8, &signature.edx, 4);
  EXPECT_STREQ(name, "KVMKVMKVM");
  // All that the host lists, none of what user space has to implement.
  EXPECT_EQ(Ask(guest, 0x40000001).eax, 0x01007efbu);

  guest = Build(AmdServer(), {.hidden_kvm_features = 1 << 4 | 1 << 14});
  EXPECT_EQ(Ask(guest, 0x40000001).eax, 0x01003eebu);
  guest = Build(AmdServer(), {.msi_ext_dest_id = true, .map_gpa_range = true});
  EXPECT_EQ(Ask(guest, 0x40000001).eax, 0x0103fefbu);

  Entries host = AmdServer();
  At(host, 0x40000001, 0, [](kvm::CpuidEntry& e) { e.eax = 0xffffffff; });
  EXPECT_EQ(Ask(Build(host), 0x40000001).eax, 0x01007efbu)
      << "features this build does not know";
}

TEST(CpuidTest, MapGpaRangeNeedsVmmcall) {
  EXPECT_TRUE(UsesVmmcall(AmdServer()));
  EXPECT_FALSE(UsesVmmcall(IntelServer()));
  EXPECT_THAT(
      BuildCpuid(IntelServer(), {.map_gpa_range = true}, {}, 0),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("VMMCALL")));
  Entries hygon = AmdServer();
  At(hygon, 0, 0, [](kvm::CpuidEntry& e) {
    e.ebx = 0x6f677948;
    e.edx = 0x6e65476e;
    e.ecx = 0x656e6975;
  });
  EXPECT_TRUE(UsesVmmcall(hygon));
}

// --- the C-bit ---

TEST(CpuidCbitTest, LiesBelowBothAddressSizes) {
  Entries host = AmdServer();
  auto with = [&host](uint32_t eax) {
    Entries copy = host;
    At(copy, 0x80000008, 0, [eax](kvm::CpuidEntry& e) { e.eax = eax; });
    return copy;
  };
  EXPECT_THAT(ComputeCbit(host), IsOkAndHolds(47));
  EXPECT_THAT(ComputeCbit(with(0x00003028)), IsOkAndHolds(39));
  EXPECT_THAT(ComputeCbit(with(0x00003030)), IsOkAndHolds(47));
  EXPECT_THAT(ComputeCbit(with(0x00003934)), IsOkAndHolds(47))
      << "52 bits, none for guests named: four levels";
  EXPECT_THAT(ComputeCbit(with(0x00343934)), IsOkAndHolds(51));
  EXPECT_THAT(ComputeCbit(with(0x00303934)), IsOkAndHolds(47));
  EXPECT_THAT(ComputeCbit(with(0x0030302e)), IsOkAndHolds(45));
  EXPECT_THAT(ComputeCbit(with(0x00003020)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("no room for a C-bit")));
  EXPECT_THAT(ComputeCbit(with(0)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ComputeCbit({}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(CpuidCbitTest, GuestSeesSev) {
  for (const Entries& host : {AmdServer(), IntelServer(), SoftwareKvm()}) {
    ASSERT_OK_AND_ASSIGN(int c_bit, ComputeCbit(host));
    Entries guest = Build(host, {.c_bit = c_bit});
    kvm::CpuidEntry leaf = Ask(guest, 0x8000001f);
    EXPECT_EQ(leaf.eax, 2u);
    EXPECT_EQ(Field(leaf.ebx, 5, 0), static_cast<uint32_t>(c_bit));
    EXPECT_EQ(Field(leaf.ebx, 11, 6), 1u);
    EXPECT_EQ(Field(leaf.ebx, 31, 12), 0u);
    EXPECT_EQ(leaf.ecx | leaf.edx, 0u);
    EXPECT_EQ(Field(Ask(guest, 0x80000008).eax, 7, 0),
              static_cast<uint32_t>(MaxPhysicalAddressBits(host)));
    EXPECT_EQ(Ask(guest, 0x40000001).eax & 0x30000, 0u)
        << "hypercalls are a choice of their own";
  }
}

TEST(CpuidCbitTest, MustBeAnAddressBit) {
  for (int c_bit : {-1, 0, 32, 48, 64}) {
    EXPECT_THAT(BuildCpuid(AmdServer(), {.c_bit = c_bit}, {}, 0),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("is not in 33..47")));
  }
}

// --- topology ---

TEST(CpuidTopologyTest, EveryVcpuKnowsItself) {
  CpuTopology topology{
      .count = 12, .threads_per_core = 2, .cores_per_socket = 3};
  for (const Entries& host : {AmdServer(), IntelServer(), SoftwareKvm()}) {
    for (uint32_t i = 0; i < topology.count; ++i) {
      Entries guest = Build(host, {}, topology, i);
      uint32_t id = topology.ApicId(i);
      EXPECT_EQ(Ask(guest, 1).ebx >> 24, id);
      EXPECT_TRUE(BitOf(Ask(guest, 1).edx, 28));
      for (uint32_t level : {0u, 1u, 2u}) {
        EXPECT_EQ(Ask(guest, 0xb, level).edx, id);
        EXPECT_EQ(Field(Ask(guest, 0xb, level).ecx, 7, 0), level);
      }
      EXPECT_EQ(Ask(guest, 0xb, 0).eax, 1u);
      EXPECT_EQ(Ask(guest, 0xb, 0).ebx, 2u);
      EXPECT_EQ(Field(Ask(guest, 0xb, 0).ecx, 15, 8), 1u);
      EXPECT_EQ(Ask(guest, 0xb, 1).eax, 3u);
      EXPECT_EQ(Ask(guest, 0xb, 1).ebx, 6u);
      EXPECT_EQ(Field(Ask(guest, 0xb, 1).ecx, 15, 8), 2u);
      EXPECT_EQ(Field(Ask(guest, 0xb, 2).ecx, 15, 8), 0u);
    }
  }
}

TEST(CpuidTopologyTest, IntelCachesAndTwinLeaf) {
  CpuTopology topology{
      .count = 12, .threads_per_core = 2, .cores_per_socket = 3};
  Entries guest = Build(IntelServer(), {}, topology, 7);
  // Ids per socket: 2 threads in 4 core places.
  EXPECT_EQ(Field(Ask(guest, 1).ebx, 23, 16), 8u);
  for (uint32_t i = 0; i < 4; ++i) {
    kvm::CpuidEntry leaf = Ask(guest, 4, i);
    EXPECT_EQ(Field(leaf.eax, 25, 14), i < 3 ? 1u : 7u) << i;
    EXPECT_EQ(Field(leaf.eax, 31, 26), 3u);
    EXPECT_EQ(leaf.ebx, Ask(IntelServer(), 4, i).ebx) << "its size stays";
  }
  for (uint32_t level : {0u, 1u, 2u}) {
    EXPECT_EQ(Ask(guest, 0x1f, level).eax, Ask(guest, 0xb, level).eax);
    EXPECT_EQ(Ask(guest, 0x1f, level).edx, topology.ApicId(7));
  }
  EXPECT_FALSE(Has(guest, 0x8000001e));
  EXPECT_FALSE(Has(Build(AmdServer(), {}, topology, 7), 0x1f));
}

TEST(CpuidTopologyTest, AmdCoresAndCaches) {
  CpuTopology topology{
      .count = 12, .threads_per_core = 2, .cores_per_socket = 3};
  Entries guest = Build(AmdServer(), {}, topology, 11);
  EXPECT_EQ(Field(Ask(guest, 1).ebx, 23, 16), 6u);
  EXPECT_EQ(Field(Ask(guest, 0x80000008).ecx, 7, 0), 5u);
  EXPECT_EQ(Field(Ask(guest, 0x80000008).ecx, 15, 12), 3u);
  EXPECT_TRUE(BitOf(Ask(guest, 0x80000001).ecx, 1)) << "CmpLegacy";
  kvm::CpuidEntry ids = Ask(guest, 0x8000001e);
  EXPECT_EQ(ids.eax, topology.ApicId(11));
  EXPECT_EQ(Field(ids.ebx, 7, 0), 2u) << "core in its socket";
  EXPECT_EQ(Field(ids.ebx, 15, 8), 1u) << "threads per core - 1";
  EXPECT_EQ(Field(ids.ecx, 7, 0), 1u) << "socket";
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(Field(Ask(guest, 0x8000001d, i).eax, 25, 14), i < 3 ? 1u : 5u);
  }
  Entries host = AmdServer();
  At(host, 0x80000001, 0, [](kvm::CpuidEntry& e) { e.ecx &= ~(1u << 22); });
  guest = Build(host, {}, topology, 0);
  EXPECT_FALSE(Has(guest, 0x8000001d));
  EXPECT_FALSE(Has(guest, 0x8000001e));
}

TEST(CpuidTopologyTest, OneVcpuAlone) {
  for (const Entries& host : {AmdServer(), IntelServer()}) {
    Entries guest = Build(host);
    EXPECT_EQ(Ask(guest, 1).ebx >> 24, 0u) << "not the host's own id";
    EXPECT_FALSE(BitOf(Ask(guest, 1).edx, 28));
    EXPECT_FALSE(BitOf(Ask(guest, 0x80000001).ecx, 1));
    EXPECT_EQ(Ask(guest, 0xb, 0).eax, 0u);
    EXPECT_EQ(Ask(guest, 0xb, 1).ebx, 1u);
  }
}

TEST(CpuidTopologyTest, WideApicIds) {
  CpuTopology topology{.count = 1000, .threads_per_core = 2};
  for (const Entries& host : {AmdServer(), IntelServer()}) {
    Entries guest = Build(host, {}, topology, 999);
    EXPECT_EQ(Ask(guest, 0xb, 0).edx, 999u);
    EXPECT_EQ(Ask(guest, 0xb, 1).edx, 999u);
    EXPECT_EQ(Ask(guest, 0xb, 1).ebx, 1000u);
    EXPECT_EQ(Ask(guest, 1).ebx >> 24, 999u & 0xff);
    EXPECT_EQ(Field(Ask(guest, 1).ebx, 23, 16), 255u) << "as much as fits";
  }
  Entries amd = Build(AmdServer(), {}, topology, 999);
  EXPECT_EQ(Ask(amd, 0x8000001e).eax, 999u);
  EXPECT_EQ(Field(Ask(amd, 0x80000008).ecx, 7, 0), 255u);
  Entries intel = Build(IntelServer(), {}, topology, 999);
  EXPECT_EQ(Field(Ask(intel, 4, 3).eax, 25, 14), 1023u);
  EXPECT_EQ(Field(Ask(intel, 4, 3).eax, 31, 26), 63u);
  EXPECT_EQ(Ask(intel, 0x1f, 0).edx, 999u);

  std::set<uint32_t> ids;
  for (uint32_t i = 0; i < topology.count; ++i) {
    ids.insert(Ask(Build(AmdServer(), {}, topology, i), 0xb).edx);
  }
  EXPECT_EQ(ids.size(), 1000u);
  EXPECT_THAT(BuildCpuid(AmdServer(), {.x2apic = false}, topology, 0),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("APIC id 999 needs x2APIC")));
}

TEST(CpuidTopologyTest, OldHostGetsLeafB) {
  Entries host = IntelServer();
  host.erase(std::remove_if(host.begin(), host.end(),
                            [](const kvm::CpuidEntry& e) {
                              return e.function >= 0xb && e.function < 0x1000;
                            }),
             host.end());
  At(host, 0, 0, [](kvm::CpuidEntry& e) { e.eax = 0xa; });
  Entries guest = Build(host, {}, {.count = 300}, 299);
  EXPECT_EQ(Ask(guest, 0).eax, 0xbu);
  EXPECT_EQ(Ask(guest, 0xb).edx, 299u);
  EXPECT_FALSE(BitOf(Ask(guest, 1).ecx, 26)) << "no leaf 0xD, no XSAVE";
}

TEST(CpuidTest, RefusesWhatItCannotBuild) {
  EXPECT_THAT(BuildCpuid({}, {}, {}, 0),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("lacks leaf 0 or 1")));
  EXPECT_THAT(BuildCpuid(AmdServer(), {}, {.count = 2}, 2),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("vCPU 2 is not in a topology of 2")));
}

}  // namespace
}  // namespace cloister::vcpu
