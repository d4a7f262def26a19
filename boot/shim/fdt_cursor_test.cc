// SPDX-License-Identifier: Apache-2.0
//
// handover_test has every truncation and every flipped bit of a whole tree.
#include "cloister/boot/shim/fdt_cursor.h"

#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::shim {
namespace {

void Append(std::vector<uint8_t>* bytes, uint32_t word) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    bytes->push_back(static_cast<uint8_t>(word >> shift));
  }
}
void Append(std::vector<uint8_t>* bytes, const std::string& text) {
  bytes->insert(bytes->end(), text.begin(), text.end());
  bytes->push_back(0);
  while (bytes->size() % 4 != 0) bytes->push_back(0);
}

// A tree around `structure`, with the property names "a" and "bc".
std::vector<uint8_t> Tree(const std::vector<uint8_t>& structure,
                          uint32_t version = 17) {
  constexpr uint32_t kBlocks = 64;
  const std::string strings("a\0bc", 5);
  const auto size = static_cast<uint32_t>(structure.size());
  std::vector<uint8_t> tree;
  for (uint32_t word : {0xd00dfeedu, kBlocks + size + 5, kBlocks,
                        kBlocks + size, 48u, version, 16u, 0u, 5u, size}) {
    Append(&tree, word);
  }
  tree.resize(kBlocks);
  tree.insert(tree.end(), structure.begin(), structure.end());
  tree.insert(tree.end(), strings.begin(), strings.end());
  return tree;
}

// { a = <7>; x@1f { bc = "four"...; }; };
std::vector<uint8_t> Sample() {
  std::vector<uint8_t> structure;
  Append(&structure, 1u);
  Append(&structure, "");
  for (uint32_t word : {3u, 4u, 0u, 7u}) Append(&structure, word);
  Append(&structure, 1u);
  Append(&structure, "x@1f");
  for (uint32_t word : {3u, 8u, 2u, 1u, 2u}) Append(&structure, word);
  for (uint32_t word : {2u, 2u, 9u}) Append(&structure, word);
  return structure;
}

TEST(FdtCursorTest, WalksATree) {
  const std::vector<uint8_t> tree = Tree(Sample());
  FdtCursor fdt(tree.data(), tree.size());
  ASSERT_TRUE(fdt.ok());
  EXPECT_TRUE(fdt.BeginNode(""));
  uint32_t seven = 0;
  EXPECT_TRUE(fdt.Property32("a", &seven));
  EXPECT_EQ(seven, 7u);
  EXPECT_TRUE(fdt.AtNode());
  uint64_t address = 0;
  EXPECT_TRUE(fdt.BeginNode("x@", &address));
  EXPECT_EQ(address, 0x1fu);
  uint64_t both = 0;
  EXPECT_TRUE(fdt.Property64("bc", &both));
  EXPECT_EQ(both, uint64_t{1} << 32 | 2);
  EXPECT_FALSE(fdt.AtNode());
  EXPECT_TRUE(fdt.EndNode());
  EXPECT_TRUE(fdt.EndNode());
  EXPECT_TRUE(fdt.End());
}

TEST(FdtCursorTest, TheFirstMistakeIsTheLast) {
  const std::vector<uint8_t> tree = Tree(Sample());
  FdtCursor fdt(tree.data(), tree.size());
  uint32_t value = 99;
  EXPECT_FALSE(fdt.Property32("a", &value)) << "before its node";
  EXPECT_FALSE(fdt.ok());
  EXPECT_FALSE(fdt.BeginNode(""));
  EXPECT_FALSE(fdt.AtNode());
  EXPECT_FALSE(fdt.End());
  EXPECT_EQ(value, 99u);
}

TEST(FdtCursorTest, NamesAndSizesMustFit) {
  const std::vector<uint8_t> tree = Tree(Sample());
  uint32_t value = 0;
  uint64_t wide = 0;
  for (const char* name : {"b", "aa", ""}) {
    FdtCursor fdt(tree.data(), tree.size());
    ASSERT_TRUE(fdt.BeginNode(""));
    EXPECT_FALSE(fdt.Property32(name, &value)) << name;
  }
  FdtCursor fdt(tree.data(), tree.size());
  ASSERT_TRUE(fdt.BeginNode(""));
  EXPECT_FALSE(fdt.Property64("a", &wide)) << "four bytes";
}

TEST(FdtCursorTest, UnitAddressesAreCanonical) {
  for (const char* name :
       {"x@", "x@01", "x@1F", "x@1g", "x@11111111111111111", "y@1", "x@1 "}) {
    std::vector<uint8_t> structure;
    Append(&structure, 1u);
    Append(&structure, name);
    const std::vector<uint8_t> tree = Tree(structure);
    FdtCursor fdt(tree.data(), tree.size());
    uint64_t address = 0;
    EXPECT_FALSE(fdt.BeginNode("x@", &address)) << name;
  }
  std::vector<uint8_t> structure;
  Append(&structure, 1u);
  Append(&structure, "x@ffffffffffffffff");
  const std::vector<uint8_t> tree = Tree(structure);
  FdtCursor fdt(tree.data(), tree.size());
  uint64_t address = 0;
  EXPECT_TRUE(fdt.BeginNode("x@", &address));
  EXPECT_EQ(address, UINT64_MAX);
}

TEST(FdtCursorTest, HeadersThatLieAreNoTree) {
  const std::vector<uint8_t> good = Tree(Sample());
  EXPECT_FALSE(FdtCursor(good.data(), good.size() - 1).ok());
  EXPECT_FALSE(FdtCursor(good.data(), 0).ok());
  const std::vector<uint8_t> old = Tree(Sample(), /*version=*/16);
  EXPECT_FALSE(FdtCursor(old.data(), old.size()).ok());
  for (size_t at = 0; at < 64; ++at) {
    std::vector<uint8_t> bad = good;
    bad[at] ^= 0x80;
    EXPECT_FALSE(FdtCursor(bad.data(), bad.size()).ok()) << at;
  }
}

}  // namespace
}  // namespace cloister::shim
