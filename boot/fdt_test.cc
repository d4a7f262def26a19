// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/fdt.h"

#include <libfdt.h>

#include <cstring>
#include <functional>
#include <utility>

#include "cloister/base/status_matchers.h"

namespace cloister::boot {
namespace {

using ::cloister::base::StatusIs;
using ::testing::HasSubstr;

TEST(FdtBuilderTest, WritesWhatLibfdtReadsBack) {
  FdtBuilder fdt;
  fdt.BeginNode("");
  fdt.String("compatible", "cloister,test");
  fdt.U32("#address-cells", 2);
  fdt.BeginNode("device@1000");
  fdt.U64List("reg", {0x1000, 0x200});
  fdt.U64("dma", 0x0123456789abcdef);
  fdt.U32List("interrupts", {0x10, 0x01020304});
  fdt.Empty("dma-coherent");
  fdt.Bytes("mac", {1, 2, 3});
  fdt.EndNode();
  fdt.EndNode();
  ASSERT_OK_AND_ASSIGN(std::vector<uint8_t> tree, fdt.Finish());

  ASSERT_EQ(fdt_check_full(tree.data(), tree.size()), 0);
  int length = 0;
  const void* value = fdt_getprop(tree.data(), 0, "compatible", &length);
  EXPECT_EQ(std::string(static_cast<const char*>(value), length),
            std::string("cloister,test\0", 14));
  int node = fdt_path_offset(tree.data(), "/device@1000");
  ASSERT_GE(node, 0);
  const auto* reg = static_cast<const uint8_t*>(
      fdt_getprop(tree.data(), node, "reg", &length));
  ASSERT_EQ(length, 16);
  EXPECT_EQ(reg[6], 0x10);
  EXPECT_EQ(reg[14], 0x02);
  const auto* dma = static_cast<const uint8_t*>(
      fdt_getprop(tree.data(), node, "dma", &length));
  ASSERT_EQ(length, 8);
  EXPECT_EQ(dma[0], 0x01);
  EXPECT_EQ(dma[7], 0xef);
  const auto* interrupts = static_cast<const uint8_t*>(
      fdt_getprop(tree.data(), node, "interrupts", &length));
  ASSERT_EQ(length, 8);
  EXPECT_EQ(interrupts[3], 0x10);
  EXPECT_EQ(interrupts[4], 0x01);
  EXPECT_EQ(interrupts[7], 0x04);
  EXPECT_NE(fdt_getprop(tree.data(), node, "dma-coherent", &length), nullptr);
  EXPECT_EQ(length, 0);
  const void* mac = fdt_getprop(tree.data(), node, "mac", &length);
  ASSERT_EQ(length, 3);
  EXPECT_EQ(std::memcmp(mac, "\1\2\3", 3), 0);
}

TEST(FdtBuilderTest, GrowsBeyondItsFirstBuffer) {
  FdtBuilder fdt;
  fdt.BeginNode("");
  std::vector<uint8_t> blob(300000, 0x5a);
  fdt.Bytes("blob", blob);
  fdt.EndNode();
  ASSERT_OK_AND_ASSIGN(std::vector<uint8_t> tree, fdt.Finish());
  int length = 0;
  const void* value = fdt_getprop(tree.data(), 0, "blob", &length);
  ASSERT_EQ(length, 300000);
  EXPECT_EQ(std::memcmp(value, blob.data(), blob.size()), 0);
}

TEST(FdtBuilderTest, ReportsTheFirstCallThatMakesNoTree) {
  using Calls = std::function<void(FdtBuilder&)>;
  const std::pair<const char*, Calls> cases[] = {
      {"misplaced finish", [](FdtBuilder&) {}},
      {"misplaced finish", [](FdtBuilder& fdt) { fdt.BeginNode(""); }},
      {"misplaced end of node", [](FdtBuilder& fdt) { fdt.EndNode(); }},
      {"misplaced node 'root'", [](FdtBuilder& fdt) { fdt.BeginNode("root"); }},
      {"misplaced property 'a'", [](FdtBuilder& fdt) { fdt.U32("a", 1); }},
      {"misplaced property 'late'",
       [](FdtBuilder& fdt) {
         fdt.BeginNode("");
         fdt.BeginNode("child");
         fdt.EndNode();
         fdt.Empty("late");
         fdt.EndNode();
       }},
      {"misplaced node 'second'",
       [](FdtBuilder& fdt) {
         fdt.BeginNode("");
         fdt.EndNode();
         fdt.BeginNode("second");
         fdt.EndNode();
       }},
      {"misplaced node ''",
       [](FdtBuilder& fdt) {
         fdt.BeginNode("");
         fdt.BeginNode("");
         fdt.EndNode();
         fdt.EndNode();
       }},
  };
  for (const auto& [message, calls] : cases) {
    FdtBuilder fdt;
    calls(fdt);
    EXPECT_THAT(fdt.Finish(), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr(message)));
  }
}

}  // namespace
}  // namespace cloister::boot
