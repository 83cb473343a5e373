// The programs of docs/cookbook.md, unchanged, on the lab's devices.
#include "said_by.hpp"
#include "v4l2_support.hpp"

#include <filesystem>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace dmaflow::test {
namespace {

struct Recipe {
  const char* name;
  const char* arguments;  // $FILE: a path that may be written to; $FIRST, $SECOND: cameras
  const char* says;       // a regular expression that must be found in what it prints
};

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> all{
      {.name = "own_loop", .arguments = "", .says = "^[1-9][0-9]* frames shown"},
      {.name = "every_frame", .arguments = "", .says = "^100 of 100 frames analysed"},
      {.name = "own_frames", .arguments = "", .says = "^60 frames drawn"},
      {.name = "foreign_memory", .arguments = "", .says = "^30 frames shown, 30 given back"},
      {.name = "worker", .arguments = "", .says = "^mean [1-9]"},
      {.name = "record", .arguments = "$FILE.y4m", .says = "^[1-9][0-9]* frames written"},
      {.name = "two_cameras", .arguments = "$FIRST $SECOND", .says = "front 1280x720 [\\s\\S]*rear 640x480 "},
      {.name = "fewer_frames", .arguments = "", .says = "\ndetector ([3-9]|1[01]) frames, [1-9][0-9]* skipped"},
      {.name = "start_recording", .arguments = "$FILE.raw", .says = "^[0-9]+ frames captured, [1-9][0-9]* recorded"},
      {.name = "one_fails", .arguments = "", .says = "fails: server: upload: [\\s\\S]*[3-9][0-9] frames for the other"},
      {.name = "change_size", .arguments = "", .says = "^640x480 [\\s\\S]*\n1280x720 "},
      {.name = "film", .arguments = "", .says = "ms of the film: off by -?[0-9]+ us"},
      {.name = "why_not", .arguments = "", .says = "^\\{\"stream\":"},
  };
  return all;
}

class Cookbook : public testing::TestWithParam<Recipe> {};
INSTANTIATE_TEST_SUITE_P(Program, Cookbook, testing::ValuesIn(recipes()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(Cookbook, DoesWhatItSays) {
  if (!in_lab()) GTEST_SKIP() << "shows a camera on a display";
  const auto replace = [](std::string text, const std::string& what, const std::string& by) {
    const auto at = text.find(what);
    return at == std::string::npos ? text : text.replace(at, what.size(), by);
  };
  std::string arguments = replace(GetParam().arguments, "$FILE", testing::TempDir() + "dmaflow-cookbook");
  arguments = replace(arguments, "$FIRST", vivid(Kind::capture, false));
  arguments = replace(arguments, "$SECOND", vivid(Kind::capture, true));
  const auto [said, status] =
      said_by(std::string("timeout 60 '" DMAFLOW_COOKBOOK "/cookbook_") + GetParam().name + "' " + arguments);
  EXPECT_EQ(status, 0) << said;
  EXPECT_TRUE(std::regex_search(said, std::regex(GetParam().says))) << said;
}

TEST(CookbookPrograms, EveryOneIsRun) {
  std::set<std::string> built;
  for (const auto& entry : std::filesystem::directory_iterator(DMAFLOW_COOKBOOK)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("cookbook_") && name.find('.') == std::string::npos) built.insert(name.substr(9));
  }
  std::set<std::string> run;
  for (const Recipe& recipe : recipes()) run.insert(recipe.name);
  EXPECT_EQ(built, run);
}

}  // namespace
}  // namespace dmaflow::test
