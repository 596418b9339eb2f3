"""What the shoppers of the simulated shop write and say in English; the same pattern as ``phrases_zh``."""

from typing import Final

from stream.simulate.phrases_zh import clauses

INTENSIFIERS: Final = ("very", "really", "so", "quite", "extremely", "pretty")

NEGATIVE: Final = {
    "quality": clauses("""
broke after three days|feels cheap and flimsy|stitching and edges are sloppy|arrived with scratches all over
poor workmanship|it rattles when you shake it|build quality is {v} bad|fell apart within a week
the {p} was defective|you can tell they cut corners|cracked on the second use|not durable at all
worse made than the last batch"""),
    "efficacy": clauses("""
does nothing for me|no visible difference after a month|the effect wears off in an hour
nowhere near what the ad claims|it simply doesn't work|made things worse, honestly|the {p} barely does its job
results are {v} underwhelming|zero improvement|I might as well not use it|overhyped and useless
tried it five times, no effect"""),
    "appearance": clauses("""
the colour looks nothing like the photo|{v} ugly in person|the finish is dull and grey|looks dated
the print is crooked|photos were heavily edited|the {p} looks like a toy from a bin|the shade is way off
design is clunky|looks tacky|surface is blotchy|not pretty at all"""),
    "packaging": clauses("""
box was crushed flat|came in a torn plastic bag|no padding whatsoever|the seal was already broken
the carton was soaked|gift box was dented, can't give it to anyone|package looked like it had been opened before
flimsy wrapping|half the box was missing|the {p} was rolling around loose in the carton|lid was split in two
wrapped {v} carelessly|tape came off and everything was hanging out"""),
    "price": clauses("""
way overpriced|price dropped the day after I bought it|not worth the money|cheaper everywhere else
paid double for nothing|{v} expensive for what it is|they raised the price before the sale|a waste of cash
the {p} costs half that next door|the coupon saved me nothing|feels like a rip-off|poor value"""),
    "logistics": clauses("""
took twelve days to arrive|tracking hasn't moved since Monday|courier dumped it outside in the rain
marked as delivered but nothing came|shipping was {v} slow|sent to the wrong address
the parcel got lost for a week|missed the promised date twice|stuck in a depot forever
driver refused to come upstairs|my {p} toured the whole country first|dispatched a week late"""),
    "service": clauses("""
support never answers|the agent was {v} rude|all I get is a bot|they copy-paste the same line
nobody knows anything about the {p}|waited an hour in the queue|promised a call back, never came
passed from one person to the next|they blamed me for it|staff couldn't care less|friendly until you pay
useless chat support"""),
    "authenticity": clauses("""
pretty sure this is a fake|the serial number doesn't exist|not the genuine article|logo is misspelled
the verification code was used thirty times already|counterfeit, stay away|the {p} is a knock-off
the brand told me this batch isn't theirs|smells nothing like the original|no licence label anywhere
looks like a replica|sold as original but it's a copy"""),
    "usability": clauses("""
instructions make no sense|took two hours to set up|buttons are too tiny to hit|impossible to clean
my parents can't figure it out|keeps disconnecting every time|{v} awkward to hold|the lid is stuck half the time
the menus make my head spin|the {p} is a pain to operate|switching modes is a chore
needs three hands to assemble"""),
    "size": clauses("""
runs two sizes small|far too big on me|sleeves are way too long|the size chart is wrong
{v} tight around the waist|shorter than stated|ordered M, got something like XS|the {p} is tiny
two of the same size don't match|baggy like a tent|doesn't fit at all|off by four centimetres"""),
    "freshness": clauses("""
arrived half rotten|smells off|already mouldy|best-before date is next week|stale and soft
tastes like it sat for months|{p} had turned brown|not fresh at all|produced last year|mushy inside
it had melted and refrozen|sour when opened"""),
    "after-sales": clauses("""
refund took three weeks|they refuse to replace the broken one|warranty claim was rejected twice
return label never came|sent it back and heard nothing|made me pay for the return
repair costs more than a new {p}|after-sales keeps telling me to wait|the replacement was broken too
refunded less than I paid|no one owns the problem|claim closed without an answer"""),
    "overall": clauses("""
very disappointed|would not buy again|one star|regret this purchase|avoid|total letdown|not recommended
worst buy this year|never again|save yourself the trouble|the {p} was a mistake|unhappy with it all"""),
}

POSITIVE: Final = {
    "quality": clauses("""
solid build|feels worth much more|well made down to the details|survived a fall without a mark
sturdy and {v} durable|materials are great|still like new after a year|no flaws at all|the {p} is built to last
neat stitching|top-notch craftsmanship|good weight to it"""),
    "efficacy": clauses("""
works like a charm|saw a difference in a week|does exactly what it says|{v} effective|solved my problem at once
the {p} performs brilliantly|lasting effect|better than the pricey one|got better with every use|powerful
my friends noticed|results speak for themselves"""),
    "appearance": clauses("""
looks gorgeous|colour is spot on|{v} stylish|prettier than the photos|fits my desk perfectly in looks
cute design|elegant and simple|everyone asks where I got it|the {p} is a beauty|lovely shade|photogenic
nice clean lines"""),
    "packaging": clauses("""
beautifully wrapped|box in perfect condition|plenty of padding|came with a handwritten card|gift-ready packaging
double boxed and safe|every piece wrapped on its own|sealed {v} tight|the {p} box is too nice to throw away
eco-friendly wrapping|not a dent on the carton|unboxing was a treat"""),
    "price": clauses("""
great value|a bargain|cheaper than in the shops|I would pay it again|{v} affordable|the deal was unbeatable
half price, couldn't resist|fair price|the {p} for this money is a steal|coupon made it super cheap|saved a lot
budget friendly"""),
    "logistics": clauses("""
arrived next day|lightning fast shipping|courier was polite|came two days early
tracking was accurate all the way|shipped within the hour|delivered right to my door|{v} quick delivery
the {p} arrived in no time|on time|smooth delivery|faster than expected"""),
    "service": clauses("""
support replied in seconds|{v} helpful staff|they answered all my questions|friendly and patient
the agent picked the right one for me|great customer service|explained how to care for the {p}
went the extra mile|kind people|even reachable at midnight|responsive seller|a pleasure to talk to"""),
    "authenticity": clauses("""
genuine product|serial number checks out|same as from the flagship store|verified on the official site
authentic for sure|original and sealed|licensed seller|the {p} is the real thing|batch code is valid|100% legit
no fake here|proper brand label"""),
    "usability": clauses("""
{v} easy to use|set up in five minutes|even grandma can use it|plug and play|clear instructions|easy to clean
comfortable to hold|intuitive controls|the {p} is a joy to operate|one button does it all|simple to assemble
handy"""),
    "size": clauses("""
fits perfectly|true to size|the length is just right|exact measurements as listed|size chart is accurate
snug but comfy|the {p} is the perfect size|not too big, not too small|fits like it was made for me
sleeves are right|good fit|order your usual size"""),
    "freshness": clauses("""
{v} fresh|crisp and juicy|not a single bad one|made last week|long shelf life left|smells wonderful
still cold on arrival|crunchy as can be|the {p} tastes freshly picked|ripe and sweet|fresh batch
like from the market"""),
    "after-sales": clauses("""
refund came the same day|replacement sent at once|painless return|warranty honoured without fuss
pickup at my door was free|they fixed the {p} in three days|fair compensation
after-sales followed up on their own|handled without a single question|sorted out in minutes
returns are easy here|stood by their warranty"""),
    "overall": clauses("""
love it|highly recommend|five stars|will buy again|very happy|exceeded my expectations|great purchase
my whole family likes it|the {p} is a winner|perfect|couldn't be happier|already ordered a second one"""),
}

NEUTRAL: Final = clauses("""
it's okay|does the job|nothing special|average|as expected, more or less|will update later|fine I guess
neither good nor bad""")

OPENERS: Final = (
    "", "", "", "", "got it today: ", "after a week: ", "second time buying. ", "honestly, ", "bought it as a gift, ",
    "just unboxed, ", "long-time customer here. ", "update: ",
)  # fmt: skip

CLOSERS: Final = {
    "negative": ("", "", "", "please fix this", "😡", "sigh", "see my photos", "👎"),
    "positive": ("", "", "", "👍", "😊", "thanks", "cheers", "❤️"),
    "neutral": ("", "", "", "🤷", "that's it"),
}

BUT: Final = (", but ", ", however ", ". only downside: ", ", though ")

DEMANDS: Final = {
    "purchase_intent": clauses("""
I'd like to order the {p}|can I buy two of these right now|ready to pay, which link do I use
please put one {p} aside for me|I want to get this today|how do I place the order|going to take the {p}
we need twenty for the office, can you invoice us|I'll buy it if I can pay by card
adding it to my cart, is it still on sale here"""),
    "discount": clauses("""
any coupon for the {p}|is there a discount if I buy three|is a sale coming up soon|can you do a better price
student discount available?|the promo code doesn't work|any deals on {c}|free shipping if I add one more
what's your lowest price|do members get a few percent off|when will {c} be cheaper"""),
    "restock": clauses("""
when will the {p} be back in stock|sold out again? when is the next batch|can you notify me when it's available
is the {p} coming back|still out of stock, any date|will you restock the black one
can I pre-order the next batch|it says zero left, will you get more|been waiting for the {p} to return
any other warehouse with stock"""),
    "product_question": clauses("""
what is the {p} made of|how long does it keep|is it waterproof|how many come in a box
can it go in the washing machine|is it safe for kids|what's the difference between the two|how heavy is the {p}
where is it made|does it contain sugar"""),
    "feature_request": clauses("""
would be great to have a smaller version|please add a silent mode|wish the {p} came in green
a travel size would be lovely|could you make a left-handed one|please sell the parts separately
would love a timer on the {p}|add faster charging next time|a version with a lid, please
hope you make a family pack"""),
    "return_refund": clauses("""
I want to return the {p}|how do I get a refund|can I exchange it for another colour|when will my money come back
where do I send it back to|opened already, can I still return it|please cancel and refund
need to swap for a bigger size|the refund button does nothing|ordered twice by mistake, returning one"""),
    "delivery_urgency": clauses("""
when will it ship|I need the {p} by Friday|can you ship today please|it's urgent, birthday tomorrow
any express option|where is my parcel|tracking is stuck, please check|could you speed it up
still not dispatched after three days|leaving on a trip, must arrive before Thursday"""),
    "compatibility": clauses("""
does the {p} work with iPhone|will it fit last year's model|is it USB-C|can I use it at 110 volts
works with Windows 11?|can I connect it to my TV|do the old parts fit the {p}|Bluetooth 5 supported?
does it pair with two devices|compatible with a third-party base?"""),
    "complaint_escalation": clauses("""
I want to speak to your manager|I'm filing a complaint|this goes to consumer protection
third time I write, escalate this|I'll post this everywhere unless it's fixed|give me the complaint number
my lawyer will contact you|who is in charge here|I'm reporting the shop to the platform
stop stalling, get me a supervisor"""),
    "recommendation_request": clauses("""
what would you recommend for my mum|which {c} is best for beginners|something similar to the {p}?
best pick under 50|help me choose between these two|what sells best|any suggestion for a four-year-old
what suits oily skin|looking for something quiet, ideas?|which one for a small flat"""),
}

GREETINGS: Final = clauses("hi|hello|hey there|anyone there?|good morning|hi, quick one")

SMALL_TALK: Final = clauses("""
thanks|ok|got it|great, thank you|never mind|one sec|have a nice day|lol ok|alright|let me think
nice weather today|bye""")

AGENT_GREETINGS: Final = clauses("Hello, how can I help?|Hi, welcome to our shop|Good day, I'm here for you")

AGENT_CLOSINGS: Final = clauses("You're welcome|Happy to help|Have a lovely day|Please reach out any time")

AGENT_REPLIES: Final = {
    "purchase_intent": ("Just tap Pay at the bottom right", "Yes, we can ship it today"),
    "discount": ("All current offers are on the home page", "This is the listed price at the moment"),
    "restock": ("No date yet, sorry", "Please tap the notify button on the page"),
    "product_question": ("The third picture has the specifications", "Let me ask the warehouse"),
    "feature_request": ("Noted, I'll pass it on to the product team",),
    "return_refund": ("Please open the order page and choose after-sales", "It goes back to the card you paid with"),
    "delivery_urgency": ("I've marked it as urgent", "Orders leave within 48 hours"),
    "compatibility": ("Could you send me the model number", "It usually fits; the table has the details"),
    "complaint_escalation": ("I'm very sorry, I'm informing my supervisor now",),
    "recommendation_request": ("Have a look at our top three", "What will you use it for?"),
}

PERSONAL: Final = (
    "my phone is {phone}", "order number {order}", "my email is {email}", "call me at {phone}",
    "send the invoice to {email}",
)  # fmt: skip

TYPOS: Final = (
    ("the ", "teh "), ("quality", "qualtiy"), ("package", "pakage"), ("really", "realy"), ("arrived", "arived"),
    ("refund", "refudn"), ("delivery", "delivry"), ("with", "wiht"), ("box", "bx"), ("please", "plz"), ("you", "u"),
)  # fmt: skip
