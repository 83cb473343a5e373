// Who holds the buffers: fork, exec and exit of holders, with process events and without.
#include "allocator_checks.hpp"
#include "count_new.hpp"

#include <dmaflow/holder_watch.hpp>

#include <cerrno>
#include <chrono>
#include <functional>
#include <set>
#include <string>
#include <thread>

#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dmaflow::connector {
namespace {

using namespace std::chrono_literals;
using test::allocations;
using test::must;
using Kind = HolderEvent::Kind;

/// A child process that follows commands of one byte each.
class Puppet {
 public:
  explicit Puppet(const std::function<void(char)>& act) {
    int ends[2] = {-1, -1};
    if (::pipe(ends) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ends[1]);
      char order = 0;
      while (::read(ends[0], &order, 1) == 1) act(order);
      ::_exit(0);
    }
    ::close(ends[0]);
    strings_ = ends[1];
  }
  ~Puppet() {
    ::close(strings_);
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Puppet(const Puppet&) = delete;
  Puppet& operator=(const Puppet&) = delete;
  void tell(char order) const { ASSERT_EQ(::write(strings_, &order, 1), 1); }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  int strings_ = -1;
};

void act(char order) {
  if (order == 'f' && ::fork() == 0) ::pause();
  if (order == 's') {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(0);
    ::waitpid(pid, nullptr, 0);
  }
  if (order == 'd') ::raise(SIGSTOP);  // done: the test waits for the stop
  if (order == 'g' && ::fork() == 0) {
    if (::fork() != 0) ::_exit(0);
    ::pause();
  }
  if (order == 'e') ::execl("/bin/sleep", "sleep", "1000", nullptr);
  if (order == 'x') ::_exit(0);
  if (order == 't') std::thread([] { ::execl("/bin/sleep", "sleep", "1000", nullptr); }).join();
}

HolderEvent next(HolderWatch& watch) {
  while (true) {
    if (const auto event = must(watch.take())) return *event;
    if (sys::wait(watch.poll_fd(), watch.poll_events(), Deadline::after(20s)) <= 0) {
      ADD_FAILURE() << "nothing happens";
      return {};
    }
    must(watch.dispatch(POLLIN));
  }
}

class Holders : public testing::Test {
 protected:
  void SetUp() override {
    watch_ = must(HolderWatch::create());
    if (watch_->mode() != HolderWatch::Mode::pidfds_and_events && !test::in_lab()) {
      GTEST_SKIP() << watch_->why_no_events()->message();
    }
    ASSERT_EQ(watch_->mode(), HolderWatch::Mode::pidfds_and_events);
  }
  HolderEvent next() { return connector::next(*watch_); }
  std::unique_ptr<HolderWatch> watch_;
};

TEST_F(Holders, AForkedChildHoldsTooAndIsFollowed) {
  const Puppet puppet(act);
  must(watch_->add(puppet.pid()));
  puppet.tell('f');
  const auto forked = next();
  EXPECT_EQ(forked.kind, Kind::forked);
  EXPECT_EQ(forked.pid, puppet.pid());
  EXPECT_TRUE(watch_->contains(forked.child));
  EXPECT_EQ(watch_->size(), 2U);
  ::kill(forked.child, SIGKILL);
  const auto gone = next();
  EXPECT_EQ(gone.kind, Kind::gone);
  EXPECT_EQ(gone.pid, forked.child);
  EXPECT_EQ(watch_->size(), 1U);
}

TEST_F(Holders, GrandchildrenAreFollowedThoughTheirParentIsGone) {
  const Puppet puppet(act);
  must(watch_->add(puppet.pid()));
  puppet.tell('g');
  const auto child = next();
  const auto grandchild = next();
  EXPECT_EQ(grandchild.kind, Kind::forked);
  EXPECT_EQ(grandchild.pid, child.child);
  EXPECT_EQ(next().pid, child.child) << "gone";
  EXPECT_TRUE(watch_->contains(grandchild.child));
  ::kill(grandchild.child, SIGKILL);
  EXPECT_EQ(next().pid, grandchild.child);
}

TEST_F(Holders, AnExecIsToldAndByAnotherThreadToo) {
  for (const char order : {'e', 't'}) {
    const Puppet puppet(act);
    must(watch_->add(puppet.pid()));
    puppet.tell(order);
    const auto execed = next();
    EXPECT_EQ(execed.kind, Kind::execed);
    EXPECT_EQ(execed.pid, puppet.pid());
    EXPECT_TRUE(watch_->contains(puppet.pid()));
    EXPECT_TRUE(watch_->remove(puppet.pid()));
  }
}

TEST_F(Holders, TheEndOfAHolderIsToldOnce) {
  const Puppet puppet(act);
  must(watch_->add(must(identify(puppet.pid()))));
  must(watch_->add(puppet.pid()));
  EXPECT_EQ(watch_->size(), 1U);
  puppet.tell('x');
  const auto gone = next();
  EXPECT_EQ(gone.kind, Kind::gone);
  EXPECT_EQ(gone.pid, puppet.pid());
  ::waitid(P_PID, static_cast<id_t>(puppet.pid()), nullptr, WEXITED | WNOWAIT);
  EXPECT_FALSE(must(watch_->take()));
  EXPECT_EQ(watch_->size(), 0U);
}

TEST_F(Holders, ChildrenThatComeAndGoCostNoAllocation) {
  const Puppet puppet(act);
  must(watch_->add(puppet.pid()));
  constexpr int children = 50;
  // An exit may be reported after the next fork, because the parent is woken before.
  const auto hear_of_all = [&] {
    int forked = 0;
    int gone = 0;
    while (forked + gone < 2 * children) ++(next().kind == Kind::forked ? forked : gone);
    return forked == children && gone == children;
  };
  // All events are in the queue once, so that it has had its greatest length.
  for (int i = 0; i < children; ++i) puppet.tell('s');
  puppet.tell('d');
  ::waitpid(puppet.pid(), nullptr, WUNTRACED);
  EXPECT_TRUE(hear_of_all());
  ::kill(puppet.pid(), SIGCONT);
  const std::size_t before = allocations;
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < children; ++i) puppet.tell('s');
    EXPECT_TRUE(hear_of_all());
  }
  EXPECT_EQ(allocations, before);
  EXPECT_EQ(watch_->size(), 1U);
}

TEST_F(Holders, WhoIsNotInTheSetIsNotHeardOf) {
  const Puppet stranger(act);
  const Puppet puppet(act);
  must(watch_->add(puppet.pid()));
  must(watch_->add(stranger.pid()));
  EXPECT_TRUE(watch_->remove(stranger.pid()));
  EXPECT_FALSE(watch_->remove(stranger.pid()));
  stranger.tell('s');
  stranger.tell('x');
  puppet.tell('x');
  EXPECT_EQ(next().pid, puppet.pid());
}

TEST_F(Holders, WhoIsGoneAlreadyIsNotAdded) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  ::waitpid(pid, nullptr, 0);
  EXPECT_TRUE(test::fails_with(watch_->add(pid), ESRCH));
  EXPECT_EQ(watch_->size(), 0U);
}

TEST_F(Holders, AfterALossChildrenAreFoundAndTheGoneAreTold) {
  if (!test::in_lab()) GTEST_SKIP() << "needs a quiet machine";
  watch_ = must(HolderWatch::create({.receive_buffer = 4096}));
  const Puppet early(act);
  const Puppet puppet(act);
  must(watch_->add(puppet.pid()));
  must(watch_->add(early.pid()));
  for (int i = 0; i < 50; ++i) puppet.tell('s');
  puppet.tell('f');
  early.tell('x');
  ::waitid(P_PID, static_cast<id_t>(early.pid()), nullptr, WEXITED | WNOWAIT);
  puppet.tell('d');
  ::waitpid(puppet.pid(), nullptr, WUNTRACED);  // nothing is read meanwhile, so events are lost
  std::uint64_t lost = 0;
  std::set<pid_t> children;
  bool is_early_gone = false;
  while (const auto event = must(watch_->take())) {
    if (event->kind == Kind::lost) lost += event->lost;
    if (event->kind == Kind::forked) children.insert(event->child);
    if (event->kind == Kind::gone) children.erase(event->pid);
    if (event->kind == Kind::gone && event->pid == early.pid()) is_early_gone = true;
  }
  EXPECT_TRUE(is_early_gone);
  ASSERT_EQ(children.size(), 1U);
  const pid_t staying = *children.begin();
  EXPECT_GT(lost, 0U);
  EXPECT_TRUE(watch_->contains(staying));
  EXPECT_EQ(watch_->size(), 2U);
  ::kill(staying, SIGKILL);
}

TEST(HoldersWithoutEvents, TheEndIsToldAndTheModeSaysSo) {
  auto watch = must(HolderWatch::create_without_events());
  EXPECT_EQ(watch->mode(), HolderWatch::Mode::pidfds_only);
  EXPECT_FALSE(watch->why_no_events());
  const Puppet puppet(act);
  must(watch->add(puppet.pid()));
  puppet.tell('f');
  puppet.tell('x');
  const auto gone = next(*watch);
  EXPECT_EQ(gone.kind, Kind::gone);
  EXPECT_EQ(gone.pid, puppet.pid());
}

TEST(HoldersWithoutEvents, WhereEventsAreNotPermittedItSaysWhyAndGoesOn) {
  if (!test::in_lab()) GTEST_SKIP() << "needs root";
  const std::string said = test::as_user(0, {0}, [] {
    if (::unshare(CLONE_NEWNET) != 0) return std::string("cannot unshare");
    auto watch = HolderWatch::create();
    if (!watch) return watch.error().message();
    if ((*watch)->mode() != HolderWatch::Mode::pidfds_only) return std::string("permitted");
    const Puppet puppet(act);
    if (!(*watch)->add(puppet.pid())) return std::string("cannot add");
    puppet.tell('x');
    if (next(**watch).kind != Kind::gone) return std::string("the end is not told");
    return (*watch)->why_no_events()->message();
  });
  if (said == "permitted") GTEST_SKIP() << "this kernel gives events in every network namespace";
  EXPECT_NE(said.find("network namespace"), std::string::npos) << said;
}

}  // namespace
}  // namespace dmaflow::connector
