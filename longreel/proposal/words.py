"""Words of column names, and what they say of a column."""


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


# Keys
USER = words("user uid customer visitor member viewer shopper client account player reader subscriber person cookie")
ITEM = words(
    "item iid video product sku article movie song track listing content post photo clip asin goods good book "
    "news recipe offer job game file doc document podcast episode pin note ad property hotel restaurant asset"
)
REQUEST = words(
    "request req impression slate batch delivery page pageview serve serving response query search list group"
)
SERVED = words("shown served impression delivered exposed request requested viewed view event log logged start")
ID = words("id key uuid guid code hash no number uid group")

# Kinds and places
NUMBER = words(
    "price amount cost count cnt num number duration length len ms sec seconds minutes size width height age score "
    "rating qty quantity rate ratio pct percent share days hours distance views likes salary weight discount total "
    "revenue paid spent value ctr cvr avg mean sum position pos rank slot index dwell watch play stay budget stock"
)
OUTCOME = words(
    "dwell watch watched play played stay scroll spent paid revenue amount quantity qty rating feedback completion "
    "progress percent listened viewed exit bounce engagement"
)
SERVING = words(
    "device surface tab page channel placement os platform app version network locale language query keyword referrer "
    "referer source campaign position pos rank slot browser screen layout mode context wifi session weather ad ads "
    "sponsored promoted promotion rand random autoplay holdout mobile weekend holiday test bot control exploration "
    "explore personalized treatment logged"
)
MAKER = words("brand author creator seller artist publisher vendor store shop maker")
THING = (*MAKER, *words("album category genre topic tag music"))
VERSION = words("version release build os")
DESCRIBES_ITEM = words(
    "brand author creator seller artist album label category genre topic tag tags title price duration publisher "
    "vendor style color colour maker director studio series embedding vector"
)
DESCRIBES_USER = words("age gender sex country city region member membership tier plan income occupation user register")
PART_OF_TIME = words("hour minute hourmin weekday dow month year day week quarter date")
EVENT_TYPE = words("event action behavior behaviour type interaction verb feedback activity")

# Actions, the likeliest task first; forms of a word become the first.
ACTIONS = {
    "click": words("clicked clicks clk tap tapped open opened"),
    "long_view": words("longview effective_view valid_play"),
    "purchase": words("purchased bought buy paid order ordered conversion converted transaction"),
    "cart": words("carted add_to_cart addtocart basket"),
    "like": words("liked likes thumbs_up upvote fav favorite favourite"),
    "share": words("shared"),
    "save": words("saved bookmark bookmarked wishlist wishlisted"),
    "follow": words("followed subscribe subscribed"),
    "comment": words("commented reply replied"),
    "play": words("played watched listened finish finished complete completed"),
    "forward": words("forwarded retweet repost"),
    "hate": words("hated dislike disliked report reported block hide hidden skip skipped"),
}
NEGATIVE = words("hate dislike report block hide skip unfollow remove removed delete deleted negative")
IMPRESSION = words("impression impressions view show shown exposure expose pv display served imp")
