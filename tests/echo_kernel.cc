// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/echo_kernel.h"

#include "cloister/boot/fake_kernel.h"

namespace cloister::tests {

std::vector<uint8_t> MakeEchoKernel(absl::string_view banner) {
  std::vector<uint8_t> code = {0x66, 0xba, 0xf8, 0x03};  // mov $0x3f8, %dx
  for (char c : banner) {
    code.insert(code.end(), {0xb0, static_cast<uint8_t>(c),  // mov $c, %al
                             0xee});                         // out %al, %dx
  }
  code.insert(code.end(), {0x66, 0xba, 0xfd, 0x03,  // 0: mov $0x3fd, %dx
                           0xec,                    //    in %dx, %al
                           0xa8, 0x01,              //    test $1, %al
                           0x74, 0xf7,              //    jz 0b
                           0x66, 0xba, 0xf8, 0x03,  //    mov $0x3f8, %dx
                           0xec,                    //    in %dx, %al
                           0x0c, 0x40,              //    or $0x40, %al
                           0xee,                    //    out %al, %dx
                           0xeb, 0xed});            //    jmp 0b
  std::vector<boot::FakeSegment> segments = boot::LinuxLikeSegments();
  segments[0].data = code;
  return boot::MakeElf(segments, segments[0].physical);
}

}  // namespace cloister::tests
