#include "runtime/xdg.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "kernels/check.h"

namespace spillway {
namespace {

XdgDirs dirs_of(const std::map<std::string, std::string>& variables) {
  return XdgDirs::from(
      [&](const std::string& name) {
        const auto found = variables.find(name);
        return found == variables.end() ? std::nullopt : std::optional(found->second);
      },
      "/from/passwd");
}

TEST(XdgTest, Defaults) {
  const XdgDirs dirs = dirs_of({{"HOME", "/home/one"}});
  EXPECT_EQ(dirs.cache_home, "/home/one/.cache");
  EXPECT_EQ(dirs.data_home, "/home/one/.local/share");
  EXPECT_EQ(dirs.hf_home, "/home/one/.cache/huggingface");
  EXPECT_EQ(dirs.hf_hub_cache, "/home/one/.cache/huggingface/hub");
  EXPECT_EQ(dirs_of({}).cache_home, "/from/passwd/.cache");
  EXPECT_EQ(dirs_of({{"HOME", ""}}).cache_home, "/from/passwd/.cache");
}

TEST(XdgTest, VariablesWinAndRelativeOnesAreIgnored) {
  const XdgDirs dirs = dirs_of({{"HOME", "/home/one"},
                                {"XDG_CACHE_HOME", "/fast/cache"},
                                {"XDG_DATA_HOME", "relative"},
                                {"HF_HUB_CACHE", "~/models"}});
  EXPECT_EQ(dirs.cache_home, "/fast/cache");
  EXPECT_EQ(dirs.data_home, "/home/one/.local/share");
  EXPECT_EQ(dirs.hf_home, "/fast/cache/huggingface");
  EXPECT_EQ(dirs.hf_hub_cache, "/home/one/models");
  EXPECT_EQ(dirs_of({{"HF_HOME", "/hf"}}).hf_hub_cache, "/hf/hub");
}

TEST(XdgTest, FoldersAreMadeForThisUserAlone) {
  const auto root = std::filesystem::temp_directory_path() / ("xdg_test_" + std::to_string(getpid()));
  const XdgDirs dirs = dirs_of({{"XDG_CACHE_HOME", root / "a" / "cache"}});
  EXPECT_EQ(dirs.cache(), root / "a" / "cache" / "spillway");
  EXPECT_EQ(dirs.cache(), root / "a" / "cache" / "spillway");
  for (const auto& folder : {root, root / "a", root / "a" / "cache", root / "a" / "cache" / "spillway"}) {
    struct stat status {};
    ASSERT_EQ(::stat(folder.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700u) << folder;
  }
  std::ofstream(root / "file") << "x";
  try {
    dirs_of({{"XDG_CACHE_HOME", root / "file"}}).cache();
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), testing::HasSubstr("file/spillway: the folder cannot be made"));
  }
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace spillway
