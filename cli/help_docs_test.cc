// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/help_docs.h"

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

CommandHelp Small() {
  CommandHelp get = {"get", "Get a thing", {}, {}};
  CommandHelp ctl = {
      "ctl", "Control it", {{{"--sock"}, "PATH", "The socket", true}}, {get}};
  CommandHelp run = {"run",
                     "Run it",
                     {{{"-k", "--kernel"}, "FILE", "The kernel", true},
                      {{"--cpus"}, "N", ".5 or \\more", false},
                      {{"--loud"}, "", "Say more", false}},
                     {}};
  return {"cloister",
          "Runs things.",
          {{{"--help"}, "", "Help", false}},
          {run, ctl}};
}

// Output and exit code of a shell's script.
std::string Shell(const std::string& script, int* exit_code = nullptr) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/script");
  std::ofstream(path) << script;
  std::FILE* pipe = ::popen(absl::StrCat("bash ", path, " 2>&1").c_str(), "r");
  std::string output;
  std::array<char, 512> buffer;
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) {
    output += buffer.data();
  }
  const int status = ::pclose(pipe);
  if (exit_code != nullptr) *exit_code = WEXITSTATUS(status);
  return output;
}

// What the completion of `program` offers for the words, the last of which is
// being typed.
std::string Complete(const CommandHelp& program, const std::string& words) {
  return Shell(absl::StrCat(BashCompletion(program), "COMP_WORDS=(", words,
                            ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
                            "_cloister\necho \"${COMPREPLY[*]}\"\n"));
}

TEST(HelpDocsTest, CompletionKnowsCommandsOptionsAndFiles) {
  EXPECT_EQ(Complete(Small(), "cloister ''"), "run ctl --help\n");
  EXPECT_EQ(Complete(Small(), "cloister r"), "run\n");
  EXPECT_EQ(Complete(Small(), "cloister run --"), "--kernel --cpus --loud\n");
  EXPECT_EQ(Complete(Small(), "cloister run --cpus ''"), "\n");
  EXPECT_EQ(Complete(Small(), "cloister ctl ''"), "get --sock\n");
  EXPECT_EQ(Complete(Small(), "cloister ctl get ''"), "\n");
  const std::string file = absl::StrCat(::testing::TempDir(), "/vmlinuz-1");
  std::ofstream(file) << "x";
  EXPECT_EQ(Complete(Small(), absl::StrCat("cloister run --kernel ",
                                           ::testing::TempDir(), "/vmlinuz")),
            absl::StrCat(file, "\n"));
}

TEST(HelpDocsTest, ManPageEscapesAndNamesEverything) {
  const std::string page = ManPage(Small(), "1.2");
  EXPECT_THAT(page, HasSubstr("\\fB\\-k\\fR, \\fB\\-\\-kernel\\fR \\fIFILE"));
  EXPECT_THAT(page, HasSubstr("\n\\&.5 or \\emore\n"));
  EXPECT_THAT(page, HasSubstr(".SS ctl get\n"));
  EXPECT_THAT(page, HasSubstr("cloister 1.2"));
  EXPECT_THAT(page, HasSubstr(".B 148\n"));
}

TEST(HelpDocsTest, TheRealPagesHaveEveryCommand) {
  const CommandHelp program = DescribeCommandLine();
  const std::string page = ManPage(program, "0");
  for (const CommandHelp& command : program.commands) {
    EXPECT_THAT(page, HasSubstr(absl::StrCat(".SS ", command.name, "\n")));
    const std::string offered =
        Complete(program, absl::StrCat("cloister ", command.name, " --"));
    for (const OptionHelp& option : command.options) {
      for (const std::string& name : option.names) {
        EXPECT_THAT(page, HasSubstr(absl::StrReplaceAll(name, {{"-", "\\-"}})))
            << command.name;
        if (name.rfind("--", 0) == 0) {
          EXPECT_THAT(offered, HasSubstr(name)) << command.name;
        }
      }
    }
  }
}

TEST(HelpDocsTest, GroffHasNothingToWarnOf) {
  if (std::system("command -v groff >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "no groff here";
  }
  const std::string page = absl::StrCat(::testing::TempDir(), "/cloister.1");
  std::ofstream(page) << ManPage(DescribeCommandLine(), "0.1");
  EXPECT_EQ(Shell(absl::StrCat("groff -man -Tascii -ww -z ", page)), "");
  const std::string text =
      Shell(absl::StrCat("groff -man -Tascii -P-cbou ", page));
  EXPECT_THAT(text, HasSubstr("EXIT STATUS"));
  EXPECT_THAT(text, HasSubstr("--kernel FILE"));
  EXPECT_THAT(text, Not(HasSubstr("\\-")));
}

}  // namespace
}  // namespace cloister::cli
