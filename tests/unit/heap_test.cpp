// Heap and udmabuf without devices: names and errors. Allocation itself is tested in the lab.
#include "support.hpp"

#include <dmaflow/heap.hpp>
#include <dmaflow/udmabuf.hpp>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>

#include <unistd.h>

namespace dmaflow {
namespace {

using heap::Answer;
using test::mentions;

/// A directory that stands for /dev/dma_heap, with ordinary files in it.
class HeapDirectory : public testing::Test {
 protected:
  HeapDirectory() : path_(std::filesystem::temp_directory_path() / ("dmaflow-heaps-" + std::to_string(::getpid()))) {
    std::filesystem::create_directory(path_);
    options_.directory = path_.string();
  }
  ~HeapDirectory() override { std::filesystem::remove_all(path_); }
  void add(const std::string& name) const { std::ofstream(path_ / name) << "no heap"; }

  std::filesystem::path path_;
  heap::Options options_;
};

TEST(HeapNames, TheTableKnowsTheKernelsNames) {
  EXPECT_EQ(heap::properties_of("system"), (heap::Properties{Answer::no, Answer::yes, Answer::no}));
  for (const char* cma : {"default_cma_region", "reserved", "linux,cma", "default-pool"}) {
    EXPECT_EQ(heap::properties_of(cma), (heap::Properties{Answer::yes, Answer::yes, Answer::no})) << cma;
  }
  EXPECT_EQ(heap::properties_of("system-uncached").cached, Answer::no);
}

TEST(HeapNames, ConventionsAreRead) {
  EXPECT_EQ(heap::properties_of("memory@42000000-contiguous").contiguous, Answer::yes);
  EXPECT_EQ(heap::properties_of("memory@42000000-contiguous").cached, Answer::unknown);
  for (const char* tee : {"protected,secure-video", "protected,trusted-ui", "restricted,secure-video"}) {
    EXPECT_EQ(heap::properties_of(tee).is_protected, Answer::yes) << tee;
    EXPECT_EQ(heap::properties_of(tee).contiguous, Answer::unknown) << tee;
  }
}

TEST(HeapNames, OtherNamesAreUnknown) {
  for (const char* name : {"", "System", "system2", "vidbuf_cached", "video@42000000"}) {
    EXPECT_EQ(heap::properties_of(name), heap::Properties{}) << name;
  }
}

TEST_F(HeapDirectory, ListsByName) {
  for (const char* name : {"system", "zeta", "linux,cma"}) add(name);
  const auto heaps = heap::list(options_);
  ASSERT_EQ(heaps.size(), 3U);
  EXPECT_EQ(heaps[0].name, "linux,cma");
  EXPECT_EQ(heaps[0].properties.contiguous, Answer::yes);
  EXPECT_EQ(heaps[1].name, "system");
  EXPECT_EQ(heaps[2].properties, heap::Properties{});
}

TEST(HeapNone, AMissingDirectoryIsNoHeapsAndNamesTheKernelOption) {
  const heap::Options options{.directory = "/no/such/directory"};
  EXPECT_TRUE(heap::list(options).empty());
  for (const auto& result : {heap::Allocator::open("system", options), heap::Allocator::open_with({}, options)}) {
    ASSERT_TRUE(test::fails_with(result, ENOENT));
    EXPECT_TRUE(mentions(result.error(), "CONFIG_DMABUF_HEAPS_SYSTEM")) << result.error().message();
  }
}

TEST_F(HeapDirectory, AMissingHeapNamesThoseThereAre) {
  add("system");
  add("reserved");
  const auto result = heap::Allocator::open("linux,cma", options_);
  ASSERT_TRUE(test::fails_with(result, ENOENT));
  EXPECT_TRUE(mentions(result.error(), "reserved, system")) << result.error().message();
}

TEST_F(HeapDirectory, PropertiesChooseTheHeapAndSystemGoesFirst) {
  for (const char* name : {"a-protected", "reserved", "system", "video"}) add(name);
  const auto name_for = [&](const heap::Wish& wish) {
    const auto result = heap::Allocator::open_with(wish, options_);
    return result ? std::string((*result)->name()) : result.error().message();
  };
  EXPECT_EQ(name_for({}), "heap:system");
  EXPECT_EQ(name_for({.cached = Answer::yes}), "heap:system");
  EXPECT_EQ(name_for({.contiguous = Answer::yes}), "heap:reserved");
  EXPECT_EQ(name_for({.is_protected = Answer::yes}), "heap:a-protected");
  EXPECT_NE(name_for({.contiguous = Answer::yes, .is_protected = Answer::yes}).find("contiguous, protected"),
            std::string::npos);
}

TEST_F(HeapDirectory, TraitsCountUnknownAsNotThere) {
  add("video");
  const auto video = test::must(heap::Allocator::open("video", options_));
  EXPECT_FALSE(video->traits().contiguous || video->traits().cached || video->traits().is_protected);
}

TEST_F(HeapDirectory, ANameWithASlashIsRefused) {
  const std::string outside = "../" + path_.filename().string() + "/system";
  add("system");
  EXPECT_TRUE(test::fails_with(heap::Allocator::open(outside, options_), EINVAL));
  EXPECT_TRUE(test::fails_with(heap::Allocator::open("", options_), EINVAL));
}

TEST_F(HeapDirectory, AFileThatIsNoHeapSaysSoWhenAsked) {
  add("system");
  const test::LeakCheck leaks;
  const auto fake = test::must(heap::Allocator::open("system", options_));
  Request request;
  request.format = formats::xrgb8888;
  request.size = {64, 64};
  const auto result = fake->allocate(request);
  ASSERT_TRUE(test::fails_with(result, ENOTTY));
  EXPECT_TRUE(mentions(result.error(), "no dma-heap")) << result.error().message();
}

TEST_F(HeapDirectory, NoPermissionNamesOwnerAndRule) {
  add("system");
  const test::FailNth refuse(1, EACCES, "open");
  const auto result = heap::Allocator::open("system", options_);
  ASSERT_TRUE(test::fails_with(result, EACCES));
  EXPECT_TRUE(mentions(result.error(), "group ")) << result.error().message();
  EXPECT_TRUE(mentions(result.error(), "KERNEL==\"system\"")) << result.error().message();
}

TEST(UdmabufNone, AMissingDriverSaysHowToLoadIt) {
  const auto result = udmabuf::Allocator::open({.device = "/no/such/udmabuf"});
  ASSERT_TRUE(test::fails_with(result, ENOENT));
  EXPECT_TRUE(mentions(result.error(), "modprobe udmabuf")) << result.error().message();
}

TEST(UdmabufNone, AFileThatIsNotUdmabufSaysSoWhenAsked) {
  const test::LeakCheck leaks;
  const auto fake = test::must(udmabuf::Allocator::open({.device = "/dev/null"}));
  Request request;
  request.format = formats::xrgb8888;
  request.size = {64, 64};
  const auto result = fake->allocate(request);
  ASSERT_TRUE(test::fails_with(result, ENOTTY));
  EXPECT_TRUE(mentions(result.error(), "/dev/null is not udmabuf")) << result.error().message();
}

}  // namespace
}  // namespace dmaflow
