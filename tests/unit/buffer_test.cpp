#include "fake.hpp"

#include <dmaflow/attachment.hpp>
#include <dmaflow/buffer.hpp>

#include <thread>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

struct Marker : Attachment {
  explicit Marker(int* count) : torn(count) {}
  void tear_down() noexcept override { ++*torn; }
  int* torn;
};

class BufferTest : public testing::Test {
 protected:
  Layout layout = small_config().layout;
};

TEST_F(BufferTest, ADescriptorThatIsNoDmaBufIsRefusedAndStaysTheCallers) {
  std::vector<Fd> fds;
  fds.push_back(memfd(1 << 20));
  const int number = fds[0].get();
  const auto buffer = Buffer::create(layout, fds);
  EXPECT_TRUE(fails_with(buffer, EINVAL));
  EXPECT_NE(buffer.error().message().find("not a dma-buf"), std::string::npos) << buffer.error().message();
  EXPECT_EQ(fds[0].get(), number);
}

TEST_F(BufferTest, AClosedDescriptorIsRefused) {
  std::vector<Fd> fds;
  fds.push_back(Fd::adopt(987));
  EXPECT_TRUE(fails_with(Buffer::create(layout, fds), EBADF));
  EXPECT_EQ(fds[0].release(), 987);
}

TEST_F(BufferTest, ADmaBufSmallerThanItsLayoutIsRefusedAndStaysTheCallers) {
  const PretendDmaBufs pretend;
  std::vector<Fd> fds;
  fds.push_back(memfd(layout.object_sizes()[0] - 1));
  EXPECT_TRUE(fails_with(Buffer::create(layout, fds), EINVAL));
  EXPECT_TRUE(fds[0]);
}

TEST_F(BufferTest, NoneAndFiveDmaBufsAreRefused) {
  EXPECT_TRUE(fails_with(Buffer::create(layout, std::span<Fd>()), EINVAL));
  std::vector<Fd> five(5);
  EXPECT_TRUE(fails_with(Buffer::create(layout, five), EINVAL));
}

TEST_F(BufferTest, TwoDescriptorsOfOneDmaBufBecomeOneObject) {
  const PretendDmaBufs pretend;
  Layout nv12 = must(Layout::linear(formats::nv12, {64, 48}));
  std::vector<Fd> fds;
  fds.push_back(memfd(nv12.object_sizes()[0]));
  fds.push_back(must(Fd::dup_of(fds[0].get())));
  nv12.planes[1].object = 1;  // the same memory, named twice
  const auto open_before = open_fds().size();
  const Buffer buffer = must(Buffer::create(nv12, fds));
  EXPECT_EQ(buffer.object_count(), 1U);
  EXPECT_EQ(buffer.layout().planes[1].object, 0U);
  EXPECT_EQ(open_fds().size(), open_before - 1) << "the second descriptor is closed";
}

TEST_F(BufferTest, IdentityIsTheDmaBufNotTheNumber) {
  const PretendDmaBufs pretend;
  Buffer first = memfd_buffer(layout);
  const ObjectId id = first.id(0);
  const int number = first.fd(0);
  const Buffer keep = memfd_buffer(layout);
  Fd other = must(Fd::dup_of(first.fd(0)));
  const Buffer again = must(Buffer::create(layout, other, {}));
  EXPECT_EQ(again.id(0), id) << "another descriptor of the same dma-buf";
  first = Buffer();
  const Buffer recycled = memfd_buffer(layout);
  EXPECT_EQ(recycled.fd(0), number) << "the number is recycled";
  EXPECT_NE(recycled.id(0), id) << "the identity is not";
}

TEST_F(BufferTest, EveryFailingCallLeavesTheDescriptorsWithTheCaller) {
  const LeakCheck leaks;
  for (const char* call : {"fstat", "lseek"}) {
    std::vector<Fd> fds;
    fds.push_back(memfd(1 << 20));
    struct Both : PretendDmaBufs {
      const char* fail = nullptr;
      int before(const sys::Call& c) noexcept override {
        return std::string_view(c.name) == fail ? EIO : PretendDmaBufs::before(c);
      }
    } hook;
    hook.fail = call;
    EXPECT_TRUE(fails_with(Buffer::create(layout, fds), EIO)) << call;
    EXPECT_TRUE(fds[0]) << call;
  }
}

TEST_F(BufferTest, AttachmentsAreTornDownOnceWhenTheBufferGoesFirst) {
  const PretendDmaBufs pretend;
  const auto domain = AttachmentDomain::create();
  int torn = 0;
  {
    const Buffer buffer = memfd_buffer(layout);
    const Buffer copy = buffer;  // NOLINT: a second handle of the same buffer
    Attachment* made = must(buffer.attach(domain, std::make_unique<Marker>(&torn)));
    EXPECT_EQ(copy.attachment(*domain), made);
    EXPECT_EQ(domain->size(), 1U);
  }
  EXPECT_EQ(torn, 1);
  EXPECT_EQ(domain->size(), 0U);
  domain->detach();
  EXPECT_EQ(torn, 1);
}

TEST_F(BufferTest, AttachmentsAreTornDownOnceWhenTheDeviceGoesFirst) {
  const PretendDmaBufs pretend;
  int torn = 0;
  {
    const Buffer buffer = memfd_buffer(layout);
    const auto domain = AttachmentDomain::create();
    must(buffer.attach(domain, std::make_unique<Marker>(&torn)));
    domain->detach();
    EXPECT_EQ(torn, 1);
    EXPECT_EQ(buffer.attachment(*domain), nullptr) << "a dead device finds nothing";
    EXPECT_TRUE(fails_with(buffer.attach(domain, std::make_unique<Marker>(&torn)), ENODEV));
    EXPECT_EQ(torn, 2) << "the one refused is torn down as well";
  }
  EXPECT_EQ(torn, 2);
}

TEST_F(BufferTest, ASecondAttachmentOfTheSameDeviceYieldsToTheFirst) {
  int first_torn = 0;
  int second_torn = 0;
  const PretendDmaBufs pretend;
  const auto domain = AttachmentDomain::create();
  const Buffer buffer = memfd_buffer(layout);
  Attachment* first = must(buffer.attach(domain, std::make_unique<Marker>(&first_torn)));
  EXPECT_EQ(must(buffer.attach(domain, std::make_unique<Marker>(&second_torn))), first);
  EXPECT_EQ(first_torn, 0);
  EXPECT_EQ(second_torn, 1);
}

TEST_F(BufferTest, EachDeviceFindsItsOwnAttachmentWithoutASystemCall) {
  const auto a = AttachmentDomain::create();
  const auto b = AttachmentDomain::create();
  int torn = 0;
  Buffer buffer;
  {
    const PretendDmaBufs pretend;
    buffer = memfd_buffer(layout);
  }
  const CountCalls calls;
  auto* of_a = must(buffer.attach(a, std::make_unique<Marker>(&torn)));
  auto* of_b = must(buffer.attach(b, std::make_unique<Marker>(&torn)));
  EXPECT_EQ(attachment_as<Marker>(buffer, *a), of_a);
  EXPECT_EQ(attachment_as<Marker>(buffer, *b), of_b);
  EXPECT_EQ(calls.calls(), 0U);
}

TEST_F(BufferTest, EveryCallOnAnEmptyHandleIsSafe) {
  const PretendDmaBufs pretend;
  const auto domain = AttachmentDomain::create();
  Buffer moved_from = memfd_buffer(layout);
  const Buffer kept = std::move(moved_from);
  for (const Buffer& empty : {moved_from, Buffer()}) {  // NOLINT(bugprone-use-after-move)
    EXPECT_FALSE(empty);
    EXPECT_EQ(empty.layout(), Layout());
    EXPECT_EQ(empty.object_count(), 0U);
    EXPECT_TRUE(empty.objects().empty());
    EXPECT_EQ(empty.fd(0), -1);
    EXPECT_EQ(empty.id(0), ObjectId());
    EXPECT_EQ(empty.size(0), 0U);
    EXPECT_FALSE(empty.is_protected());
    EXPECT_EQ(empty.origin(), "");
    EXPECT_EQ(empty.attachment(*domain), nullptr);
    int torn = 0;
    EXPECT_TRUE(fails_with(empty.attach(domain, std::make_unique<Marker>(&torn)), EINVAL));
    EXPECT_EQ(torn, 1);
  }
}

TEST_F(BufferTest, AnObjectThatIsNotThereHasNothing) {
  const PretendDmaBufs pretend;
  const Buffer buffer = memfd_buffer(layout);
  for (const std::uint32_t object : {1U, 4U, ~0U}) {
    EXPECT_EQ(buffer.fd(object), -1);
    EXPECT_EQ(buffer.id(object), ObjectId());
    EXPECT_EQ(buffer.size(object), 0U);
  }
}

// Meant for ThreadSanitizer: buffer and domain are destroyed at the same time, and each attachment is torn down exactly
// once.
TEST_F(BufferTest, BufferAndDeviceMayGoAtTheSameTime) {
  const PretendDmaBufs pretend;
  for (int i = 0; i < 500; ++i) {
    auto domain = AttachmentDomain::create();
    Buffer buffer = memfd_buffer(layout);
    std::atomic<int> torn{0};
    struct Counting : Attachment {
      explicit Counting(std::atomic<int>* count) : count_(count) {}
      void tear_down() noexcept override { ++*count_; }
      std::atomic<int>* count_;
    };
    must(buffer.attach(domain, std::make_unique<Counting>(&torn)));
    std::thread device([&] { domain->detach(); });
    buffer = Buffer();
    device.join();
    EXPECT_EQ(torn, 1);
  }
}

}  // namespace
