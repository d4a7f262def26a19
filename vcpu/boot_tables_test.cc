// SPDX-License-Identifier: Apache-2.0
#include "cloister/vcpu/boot_tables.h"

#include <optional>

#include "cloister/base/bytes.h"
#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vcpu {
namespace {

using ::cloister::base::LoadLe;
using ::cloister::base::StatusIs;
using ::cloister::memory::GuestAddress;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;
constexpr uint64_t kC = uint64_t{1} << 39;

// A page walk as the processor does it, over `tables` placed at `base`.
struct Translation {
  uint64_t physical;  // C-bit included.
  bool writable;
};
std::optional<Translation> Walk(const std::vector<uint8_t>& tables,
                                uint64_t base, uint64_t c, uint64_t address) {
  uint64_t table = base;
  for (int shift : {39, 30, 21}) {
    uint64_t index = address >> shift & 511;
    if (table < base || table - base + 4096 > tables.size()) {
      ADD_FAILURE() << "table outside of the bytes: " << std::hex << table;
      return std::nullopt;
    }
    uint64_t entry = LoadLe<uint64_t>(&tables[table - base + index * 8]);
    if ((entry & 1) == 0) return std::nullopt;
    EXPECT_NE(entry & 1 << 5, 0u) << "accessed";
    uint64_t physical = entry & 0x000ffffffffff000;
    if (shift == 21) {
      EXPECT_NE(entry & 1 << 7, 0u) << "a 2 MiB page";
      EXPECT_NE(entry & 1 << 6, 0u) << "dirty";
      EXPECT_EQ(entry >> 63, 0u) << "executable";
      EXPECT_EQ(physical % (2 * kMiB), 0u);
      return Translation{physical | (address & (2 * kMiB - 1)),
                         (entry & 2) != 0};
    }
    EXPECT_EQ(entry & 1 << 7, 0u);
    table = physical & ~c;
  }
  return std::nullopt;
}

TEST(BootTablesTest, GdtHoldsTheProtocolsSegments) {
  std::vector<uint8_t> gdt = BuildBootGdt();
  ASSERT_EQ(gdt.size(), 48u);
  EXPECT_EQ(LoadLe<uint64_t>(&gdt[0]), 0u);
  uint64_t code = LoadLe<uint64_t>(&gdt[kBootCodeSelector]);
  EXPECT_EQ(code >> 40 & 0xff, 0x9bu) << "present, ring 0, code, read";
  EXPECT_EQ(code >> 52 & 0xf, 0xau) << "granular, 64-bit";
  uint64_t data = LoadLe<uint64_t>(&gdt[kBootDataSelector]);
  EXPECT_EQ(data >> 40 & 0xff, 0x93u);
  EXPECT_EQ(data >> 52 & 0xf, 0xcu);
  for (uint64_t segment : {code, data}) {
    EXPECT_EQ(segment & 0xffff, 0xffffu);
    EXPECT_EQ(segment >> 48 & 0xf, 0xfu);
    EXPECT_EQ(segment >> 16 & 0xffffff, 0u) << "base 0";
  }
  EXPECT_EQ(LoadLe<uint64_t>(&gdt[kBootTaskSelector]) >> 40 & 0xff, 0x8bu);
  EXPECT_EQ(LoadLe<uint64_t>(&gdt[kBootTaskSelector + 8]), 0u);
}

TEST(BootTablesTest, IdentityMapsFourGigabytes) {
  ASSERT_OK_AND_ASSIGN(std::vector<uint8_t> tables,
                       BuildPageTables({.tables = GuestAddress(0x9000)},
                                       IdentityMappings(4 * kGiB, 4 * kGiB)));
  EXPECT_EQ(tables.size(), 6u * 4096);
  for (uint64_t address = 0; address < 4 * kGiB; address += 2 * kMiB) {
    auto translation = Walk(tables, 0x9000, 0, address + 0x1234);
    ASSERT_TRUE(translation.has_value());
    ASSERT_EQ(translation->physical, address + 0x1234);
    ASSERT_TRUE(translation->writable);
  }
  EXPECT_FALSE(Walk(tables, 0x9000, 0, 4 * kGiB).has_value());
  EXPECT_FALSE(Walk(tables, 0x9000, 0, uint64_t{1} << 39).has_value());
}

TEST(BootTablesTest, CBitWhereAsked) {
  PageTableOptions options{
      .tables = GuestAddress(3 * kMiB), .c_bit = 39, .tables_encrypted = true};
  ASSERT_OK_AND_ASSIGN(
      std::vector<uint8_t> tables,
      BuildPageTables(options, IdentityMappings(kGiB, 4 * kMiB)));
  EXPECT_EQ(Walk(tables, 3 * kMiB, kC, 0x1000)->physical, 0x1000u);
  EXPECT_EQ(Walk(tables, 3 * kMiB, kC, 4 * kMiB - 1)->physical, 4 * kMiB - 1);
  EXPECT_EQ(Walk(tables, 3 * kMiB, kC, 4 * kMiB)->physical, 4 * kMiB | kC);
  EXPECT_EQ(Walk(tables, 3 * kMiB, kC, kGiB - 1)->physical, (kGiB - 1) | kC);
  for (size_t page = 0; page < 2; ++page) {
    EXPECT_EQ(LoadLe<uint64_t>(&tables[page * 4096]) & kC, kC)
        << "table pointers carry it too";
  }
  options.tables_encrypted = false;
  ASSERT_OK_AND_ASSIGN(
      tables, BuildPageTables(options, IdentityMappings(kGiB, 4 * kMiB)));
  EXPECT_EQ(LoadLe<uint64_t>(&tables[0]) & kC, 0u);
  EXPECT_EQ(Walk(tables, 3 * kMiB, kC, 4 * kMiB)->physical, 4 * kMiB | kC);
}

TEST(BootTablesTest, SecondWindowSharesMemory) {
  constexpr uint64_t kWindow = 0xffff888000000000;
  std::vector<PageMapping> mappings = IdentityMappings(kGiB, 0);
  mappings.push_back({.virtual_address = kWindow,
                      .physical = GuestAddress(0),
                      .size = 2 * kMiB});
  ASSERT_OK_AND_ASSIGN(
      std::vector<uint8_t> tables,
      BuildPageTables({.tables = GuestAddress(0x1000), .c_bit = 39}, mappings));
  EXPECT_EQ(Walk(tables, 0x1000, kC, 0x5000)->physical, 0x5000 | kC);
  EXPECT_EQ(Walk(tables, 0x1000, kC, kWindow + 0x5000)->physical, 0x5000u);
  EXPECT_FALSE(Walk(tables, 0x1000, kC, kWindow + 2 * kMiB).has_value());
  EXPECT_THAT(PageTableBytes(mappings), base::IsOkAndHolds(tables.size()));
}

TEST(BootTablesTest, RefusesBadMappings) {
  auto status = [](PageMapping mapping) {
    return BuildPageTables({}, {mapping}).status();
  };
  constexpr uint64_t kPage = 2 * kMiB;
  EXPECT_THAT(status({.virtual_address = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty")));
  EXPECT_THAT(status({.virtual_address = 4096, .size = kPage}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("not aligned to 2 MiB")));
  EXPECT_THAT(status({.virtual_address = 0,
                      .physical = GuestAddress(kMiB),
                      .size = kPage}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(status({.virtual_address = 0, .size = kMiB}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(
      status({.virtual_address = uint64_t{1} << 47, .size = kPage}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not canonical")));
  EXPECT_THAT(
      status(
          {.virtual_address = (uint64_t{1} << 47) - kPage, .size = 2 * kPage}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not canonical")));
  EXPECT_THAT(status({.virtual_address = 0 - kPage, .size = 2 * kPage}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("wraps")));
  EXPECT_THAT(status({.virtual_address = 0,
                      .physical = GuestAddress(uint64_t{1} << 52),
                      .size = kPage}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("beyond 52 bits")));
  EXPECT_THAT(status({.virtual_address = 0,
                      .physical = GuestAddress((uint64_t{1} << 52) - kPage),
                      .size = 2 * kPage}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("beyond 52 bits")));
  EXPECT_OK(status({.virtual_address = 0,
                    .physical = GuestAddress((uint64_t{1} << 52) - kPage),
                    .size = kPage}));
  EXPECT_OK(status({.virtual_address = 0 - kPage, .size = kPage}));
}

TEST(BootTablesTest, RefusesOverlaps) {
  std::vector<PageMapping> mappings = IdentityMappings(8 * kMiB, 8 * kMiB);
  mappings.push_back({.virtual_address = 6 * kMiB, .size = 4 * kMiB});
  EXPECT_THAT(BuildPageTables({}, mappings),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("overlap at 0x600000")));
}

TEST(BootTablesTest, RefusesBadCBits) {
  EXPECT_THAT(BuildPageTables({}, IdentityMappings(kGiB, 0)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("without a C-bit")));
  for (int bit : {-1, 12, 31, 52, 64}) {
    EXPECT_THAT(BuildPageTables({.c_bit = bit}, IdentityMappings(kGiB, 0)),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("not in 32..51")));
  }
  EXPECT_THAT(
      BuildPageTables({.c_bit = 39}, {{.virtual_address = 0,
                                       .physical = GuestAddress(kC - 2 * kMiB),
                                       .size = 4 * kMiB}}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("reaches the C-bit 39")));
  EXPECT_THAT(
      BuildPageTables({.tables = GuestAddress(kC), .c_bit = 39}, {}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("too high")));
  EXPECT_THAT(BuildPageTables({.tables = GuestAddress(0x1001)}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("not page-aligned")));
}

TEST(BootTablesTest, SizeIsBounded) {
  EXPECT_THAT(
      BuildPageTables({}, {{.virtual_address = 0, .size = uint64_t{1} << 46}}),
      StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("map less")));
  ASSERT_OK_AND_ASSIGN(
      uint64_t bytes,
      PageTableBytes({{.virtual_address = 0, .size = 1024 * kGiB}}));
  EXPECT_EQ(bytes, (1 + 2 + 1024) * 4096u);
}

TEST(BootTablesTest, NothingMappedIsOnePage) {
  EXPECT_THAT(PageTableBytes({}), base::IsOkAndHolds(4096u));
  EXPECT_TRUE(IdentityMappings(0, 0).empty());
}

}  // namespace
}  // namespace cloister::vcpu
